#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Load, unload and show the livepatches of the running kernel.  `livepatch help` explains.
# POSIX sh: packages ship it, systemd units and package scripts run it, klpbuild runs it, too.
set -u

help() {
	cat <<'END'
usage: livepatch load [--timeout SECONDS] [--force] MODULE|FILE.ko
       livepatch unload [--timeout SECONDS] [--force] MODULE
       livepatch status [MODULE]

load    load a livepatch and wait until every task runs the new code; modules that it
        replaced are unloaded
unload  disable a livepatch, wait until no task runs its code, unload its module
status  show the livepatches, what they replace, and the tasks that hold up a transition

When a transition has not ended in time, the kernel goes on trying: the same command
waits on, the opposite one goes back.  --force ends it at once.  It is DANGEROUS: tasks
may run old and new code together, and the module can never be unloaded.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 the transition has not ended in time.
END
}

# A directory in place of / for /sys and /proc, for tests.
root=${LIVEPATCH_ROOT:-}
livepatches=$root/sys/kernel/livepatch
modules=$root/sys/module
processes=$root/proc
timeout=${LIVEPATCH_TIMEOUT:-60}
force=no

say() {
	printf '%s\n' "$*"
}

fail() {
	say "livepatch: error: $*" >&2
	exit 1
}

misused() {
	say "livepatch: error: $*" >&2
	help >&2
	exit 2
}

# Seconds since the boot, which no clock's correction moves.
now() {
	read -r uptime _ </proc/uptime
	say "${uptime%.*}"
}

# The content of a small file; nothing when it is gone.
content() {
	cat "$1" 2>/dev/null
}

# value FILE WANTED
value() {
	[ "$(content "$1")" = "$2" ]
}

# The kernel's name of a module, from its name or its file.
module_name() {
	case $1 in
	*/*)
		found=$(modinfo -F name -- "$1" 2>/dev/null)
		[ -n "$found" ] && say "$found" && return
		;;
	esac
	stem=${1##*/}
	stem=${stem%.xz}
	stem=${stem%.zst}
	stem=${stem%.gz}
	printf '%s\n' "${stem%.ko}" | tr - _
}

is_livepatch() {
	[ -e "$livepatches/$1" ] && return
	case $(content "$modules/$1/taint") in
	*K*) return 0 ;;
	esac
	return 1
}

in_transition() {
	value "$livepatches/$1/transition" 1
}

# wait_for COMMAND...: until it is true or the time is over.
wait_for() {
	end=$(($(now) + timeout))
	until "$@"; do
		[ "$(now)" -ge "$end" ] && return 1
		sleep 0.2 2>/dev/null || sleep 1
	done
}

# The tasks that have not switched to the wanted state, 1 new code or 0 old code.  Only root
# can read their stacks; -1 stands for no transition (include/linux/livepatch.h).
blocking() {
	for file in "$processes"/[0-9]*/task/[0-9]*/patch_state; do
		state=$(content "$file") || continue
		[ "$state" = "$1" ] || [ "$state" = -1 ] && continue
		task=${file%/patch_state}
		# A task names itself: nothing that it writes may reach a terminal raw.
		say "  task ${task##*/} ($(content "$task/comm" | tr -cd '[:print:]'))"
		content "$task/stack" | sed 's/^/    /'
	done
}

idle() {
	for patch in "$livepatches"/*/; do
		value "${patch}transition" 1 && return 1
	done
	return 0
}

# The kernel works on one transition at a time.
wait_idle() {
	wait_for idle && return
	for patch in "$livepatches"/*/; do
		patch=${patch%/}
		in_transition "${patch##*/}" && stalled "${patch##*/}"
	done
	exit 3
}

stalled() {
	wanted=$(content "$livepatches/$1/enabled")
	[ "$wanted" = 1 ] && direction=to || direction=from
	say "livepatch: error: the transition $direction $1 has not ended after $timeout s" >&2
	blocking "$wanted" >&2
}

force_or_stop() {
	stalled "$1"
	if [ "$force" = no ]; then
		say "The kernel goes on trying.  The same command waits on, the opposite one goes back." >&2
		exit 3
	fi
	say 1 >"$livepatches/$1/force" || fail "the transition of $1 cannot be forced"
	say "$1: forced; its module can never be unloaded, and the tasks above may misbehave" >&2
}

settled() {
	! in_transition "$1"
}

gone() {
	[ ! -e "$livepatches/$1" ]
}

# Kernels before 5.1 keep a disabled livepatch in sysfs until its module goes.
disabled() {
	gone "$1" || { value "$livepatches/$1/enabled" 0 && settled "$1"; }
}

# The livepatch's directory goes first, its hold on its module a little later.
unused() {
	[ ! -e "$modules/$1/refcnt" ] || value "$modules/$1/refcnt" 0
}

remove_module() {
	wait_for unused "$1" || fail "module $1 is still in use"
	[ ! -e "$modules/$1" ] || rmmod "$1" || exit 1
}

load() {
	name=$(module_name "$1")
	if value "$livepatches/$name/enabled" 1 && ! in_transition "$name"; then
		say "$name: enabled already"
		return
	fi
	# One that is being disabled goes back, unless its transition ends at this moment.
	if value "$livepatches/$name/enabled" 0; then
		say 1 2>/dev/null >"$livepatches/$name/enabled" || wait_for gone "$name" ||
			fail "the kernel does not let $name be enabled; \`dmesg\` says why"
	fi
	if gone "$name"; then
		wait_idle
		# One that was replaced or disabled can be enabled only by loading it anew.
		if [ -e "$modules/$name" ]; then
			is_livepatch "$name" || fail "$name is a loaded module, but no livepatch"
			remove_module "$name"
		fi
	fi
	before=$(ls "$livepatches")
	if gone "$name"; then
		case $1 in
		*/*) insmod "$1" ;;
		*) modprobe -- "$1" ;;
		esac || fail "$name cannot be loaded; \`dmesg\` says why"
	fi
	wait_for settled "$name" || force_or_stop "$name"
	value "$livepatches/$name/enabled" 1 || fail "$name is no livepatch, or was disabled meanwhile"
	say "$name: enabled"
	for old in $before; do
		[ "$old" = "$name" ] || [ -e "$livepatches/$old" ] && continue
		if (remove_module "$old"); then
			say "$old: replaced and unloaded"
		else
			say "$old: replaced; its module stays loaded" >&2
		fi
	done
}

unload() {
	name=$(module_name "$1")
	[ -e "$modules/$name" ] || [ -e "$livepatches/$name" ] || fail "$name is not loaded"
	is_livepatch "$name" || fail "$name is a loaded module, but no livepatch"
	if [ -e "$livepatches/$name" ]; then
		in_transition "$name" || wait_idle
		value "$livepatches/$name/enabled" 0 ||
			say 0 2>/dev/null >"$livepatches/$name/enabled" || gone "$name" ||
			fail "the kernel does not let $name be disabled; \`dmesg\` says why"
		if ! wait_for disabled "$name"; then
			force_or_stop "$name"
			say "$name: disabled"
			return
		fi
	fi
	remove_module "$name"
	say "$name: disabled and unloaded"
}

show_state() {
	enabled=$(content "$livepatches/$1/enabled")
	case $enabled.$(content "$livepatches/$1/transition") in
	1.0) say "$1: enabled" ;;
	0.0) say "$1: disabled" ;;
	1.1) say "$1: being enabled" ;;
	0.1) say "$1: being disabled" ;;
	*) return 1 ;;
	esac
}

show() {
	show_state "$1" || return
	for object in "$livepatches/$1"/*/; do
		[ -d "$object" ] || continue
		functions=
		for function in "$object"*/; do
			[ -d "$function" ] || continue
			function=${function%/}
			functions="$functions ${function##*/}"
		done
		patched=
		value "${object}patched" 0 && patched=" (not loaded)"
		object=${object%/}
		say "  ${object##*/}$patched:$functions"
	done
	! in_transition "$1" || blocking "$enabled"
}

status() {
	if [ $# = 1 ]; then
		name=$(module_name "$1")
		[ -e "$livepatches/$name" ] || is_livepatch "$name" || fail "$name is not loaded"
	fi
	shown=no
	for directory in "$livepatches"/*/ "$modules"/*/; do
		found=${directory%/}
		found=${found##*/}
		[ $# = 0 ] || [ "$found" = "$name" ] || continue
		case $directory in
		"$livepatches"/*) [ -d "$directory" ] && show "$found" && shown=yes ;;
		*)
			gone "$found" || continue
			is_livepatch "$found" || continue
			say "$found: disabled, module still loaded"
			shown=yes
			;;
		esac
	done
	[ $shown = yes ] || say "no livepatch is loaded"
}

# --- for systemd units and package scripts ---

# is-for RELEASE [VERSION]: whether this very kernel runs.  Debian's kernels of one release
# can differ: `uname -v` holds the package's version.
is_for() {
	[ "$(uname -r)" = "$1" ] || return 1
	[ -n "${2:-}" ] || return 0
	case $(uname -v) in
	*" Debian $2 "*) ;;
	*" Debian "*) return 1 ;;
	esac
}

# report MODULE RELEASE [VERSION]: after an installation, whether it took effect.
report() {
	name=$(module_name "$1")
	if [ -e "$livepatches/$name" ]; then
		show_state "$name"
	elif ! is_for "$2" "${3:-}"; then
		say "$name: not loaded, since it is for Linux $2${3:+ ($3)} and $(uname -r) runs"
	elif grep -qw 'livepatch\.enable=0' "$processes/cmdline"; then
		say "$name: not loaded, since the kernel command line says livepatch.enable=0"
	else
		say "$name: not loaded; it will be at the next boot"
	fi
}

# removed MODULE: disable and unload it, if that can be; a package goes in any case.
removed() {
	name=$(module_name "$1")
	# In a chroot or a container this is not the system that the package leaves.
	[ -d /run/systemd/system ] || [ -n "$root" ] || return 0
	! systemd-detect-virt --quiet --chroot 2>/dev/null || return 0
	! systemd-detect-virt --quiet --container 2>/dev/null || return 0
	is_livepatch "$name" || return 0
	(unload "$1") || say "$name: not unloaded; the kernel keeps it until the next boot" >&2
}

main() {
	[ $# -gt 0 ] || misused "no command is given"
	command=$1
	shift
	case $command in
	help | -h | --help) help && exit ;;
	is-for) is_for "$@" && exit || exit 1 ;;
	load | unload | status | report | removed) ;;
	*) misused "$command is not a command" ;;
	esac
	while [ $# -gt 0 ]; do
		case $1 in
		--timeout)
			timeout=${2:-}
			[ $# = 1 ] || shift
			;;
		--force) force=yes ;;
		-*) misused "$1 is not an option" ;;
		*) break ;;
		esac
		shift
	done
	# It stands in arithmetic, where a shell may take more than digits for an expression.
	case $timeout in
	'' | *[!0-9]*) misused "--timeout needs a number of seconds" ;;
	esac
	timeout=${timeout#"${timeout%%[!0]*}"} # a leading zero would make it octal
	[ "${#timeout}" -le 9 ] || misused "--timeout takes 999999999 seconds at most"
	timeout=${timeout:-0}
	case $command.$# in
	load.1 | unload.1)
		[ "$(id -u)" = 0 ] || [ -n "$root" ] || fail "only root can $command a livepatch"
		;;
	status.[01] | report.[23] | removed.1) ;;
	load.0 | unload.0) misused "$command needs a module" ;;
	*) misused "$command has too many arguments" ;;
	esac
	[ -d "$livepatches" ] || case $command in
	load | unload | status) fail "this kernel has no livepatch support" ;;
	esac
	"$command" "$@"
}

main "$@"
