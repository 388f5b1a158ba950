#!/bin/sh
# The guest's init: runs the steps of /klpbuild/steps and tells the host, on a serial port of
# their own, how each one ended.  The console is left to the kernel's log.

PATH=/bin
export PATH
. /klpbuild/settings # channel

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mkdir -p /run /tmp
exec 3>"$channel" </dev/null >/dev/null 2>&1
# Some drivers forget it when no process has the device open.
stty -F "$channel" raw -echo
echo 8 >/proc/sys/kernel/printk

# record WORD NUMBER VALUE FILE: a line "WORD NUMBER VALUE SIZE", the file, a newline.
record() {
	echo "$1 $2 $3 $(stat -c %s "$4")" >&3
	cat "$4" >&3
	echo >&3
}

note() {
	: >/run/empty
	record "$1" "$2" "$3" /run/empty
}

finish() {
	echo "klpbuild: step end" >/dev/kmsg
	note "$1" 0 0
	sleep 0.1
	poweroff -f
	while :; do sleep 1; done
}

# Everything livepatch shows in sysfs; with few forks, for it runs after each step.
livepatches() {
	# Not "read": it takes byte by byte, and a sysctl file gives only its first one so.
	echo "taint $(cat /proc/sys/kernel/tainted)"
	for patch in /sys/kernel/livepatch/*/; do
		[ -e "${patch}enabled" ] || continue
		read -r enabled <"${patch}enabled"
		read -r transition <"${patch}transition"
		name=${patch%/}
		echo "livepatch ${name##*/} $enabled $transition"
		for object in "$patch"*/; do
			[ -d "$object" ] || continue
			patched=-
			[ -e "${object}patched" ] && read -r patched <"${object}patched"
			name=${object%/}
			echo "object ${name##*/} $patched"
			for function in "$object"*/; do
				[ -d "$function" ] || continue
				name=${function%/}
				echo "function ${name##*/}"
			done
		done
	done
}

group() {
	failed=0
}

# A livepatch that stays behind would meet those of the next group.
end_group() {
	for patch in /sys/kernel/livepatch/*/; do
		[ -e "$patch" ] && finish unclean
	done
}

# step NUMBER always|usual pass|fail|any COMMAND...: run it, unless an earlier step of the
# group failed and this one is not for cleaning up.
step() {
	number=$1 when=$2 wanted=$3
	shift 3
	if [ $failed = 1 ] && [ "$when" = usual ]; then
		note skip "$number" 0
		return
	fi
	echo "klpbuild: step $number" >/dev/kmsg
	note begin "$number" 0
	"$@" >/run/output 2>&1
	status=$?
	livepatches >/run/state
	record state "$number" 0 /run/state
	record end "$number" $status /run/output
	case $wanted.$status in
	pass.0 | any.*) ;;
	fail.0 | pass.*) failed=1 ;;
	esac
}

# --- what steps call ---

now() {
	read -r seconds rest </proc/uptime
	echo "${seconds%.*}"
}

read_file() {
	cat "$1"
}

# The file goes out compressed, for a serial port is slow.
fetch() {
	cat "$1" >/run/plain && gzip -1 <"/run/plain" >/run/fetched || return 1
	record file "$number" 0 /run/fetched
}

write_file() {
	printf %s "$2" >"$1"
}

# busybox tries finit_module first and init_module when that fails, so a refused module would
# be refused twice.  The kernel does not finit_module a file that is open for writing.
insert() {
	file=$1
	shift
	insmod "$file" "$@" 9>>"$file"
}

# load NAME FILE...: in this order, those that are not there yet.
load() {
	for module in "$@"; do
		name=${module##*/}
		[ -d "/sys/module/${name%.ko}" ] && continue
		insert "$module" || return $?
	done
}

remove() {
	rmmod "$1"
}

remove_if_loaded() {
	if [ -e "/sys/module/$1" ]; then
		remove "$1"
	else
		echo "module $1 is not loaded"
	fi
}

# Tasks that keep a transition from its end: those not yet in the wanted state.
stalled() {
	for file in /proc/[0-9]*/task/[0-9]*/patch_state; do
		read -r state <"$file" || continue
		[ "$state" = "$1" ] || [ "$state" = -1 ] && continue
		task=${file%/patch_state}
		read -r name <"$task/comm"
		echo "task ${task##*/} ($name) has not switched:"
		cat "$task/stack"
	done
}

wait_enabled() {
	patch=/sys/kernel/livepatch/$1
	end=$(($(now) + $2))
	while :; do
		if ! read -r enabled <"$patch/enabled"; then
			echo "livepatch $1 is not loaded"
			return 1
		fi
		read -r transition <"$patch/transition"
		if [ "$transition" = 0 ]; then
			[ "$enabled" = 1 ] && return 0
			echo "livepatch $1 is disabled"
			return 1
		fi
		if [ "$(now)" -ge $end ]; then
			echo "the transition to livepatch $1 has not ended after $2 s"
			stalled 1
			return 1
		fi
		sleep 0.1
	done
}

# The livepatch's directory goes first, its hold on its module a little later; one may hold
# itself, $3 times.
wait_disabled() {
	patch=/sys/kernel/livepatch/$1
	end=$(($(now) + $2))
	while [ -e "$patch" ] || ! unused "$1" "$3"; do
		if [ "$(now)" -ge $end ]; then
			echo "the transition from livepatch $1 has not ended after $2 s"
			stalled 0
			return 1
		fi
		sleep 0.1
	done
}

unused() {
	[ -e "/sys/module/$1/refcnt" ] || return 0
	read -r uses <"/sys/module/$1/refcnt"
	[ "$uses" -le "$2" ]
}

disable() {
	patch=/sys/kernel/livepatch/$1
	if [ ! -e "$patch/enabled" ]; then
		echo "livepatch $1 is not loaded"
		return 1
	fi
	echo 0 >"$patch/enabled"
}

# For a livepatch that a later one may have replaced.
disable_if_loaded() {
	if [ -e "/sys/kernel/livepatch/$1" ]; then
		disable "$1"
	else
		echo "livepatch $1 is not loaded any more"
	fi
}

shell() {
	sh -c "$1"
}

uname -r >/run/release
record ready 0 0 /run/release
. /klpbuild/steps
finish done
