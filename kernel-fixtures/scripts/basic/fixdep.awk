# SPDX-License-Identifier: GPL-2.0-or-later
# From the compiler's dependency file make kbuild's .cmd file: the command, the
# source, every header with the configuration symbols that it mentions.
# Input: one .d file; variable target; environment variable cmd.

function options(file,    line, word) {
	while ((getline line < file) > 0)
		while (match(line, /(^|[^A-Za-z0-9_])CONFIG_[A-Za-z0-9_]+/)) {
			word = substr(line, RSTART, RLENGTH)
			line = substr(line, RSTART + RLENGTH)
			sub(/^.?CONFIG_/, "", word)
			sub(/_MODULE$/, "", word)
			if (!(word in seen)) {
				seen[word] = 1
				print "    $(wildcard include/config/" word ") \\"
			}
		}
	close(file)
}

{
	sub(/\\$/, "")
	for (i = 1; i <= NF; i++)
		if ($i !~ /:$/ && !($i in known)) {
			known[$i] = 1
			files[++count] = $i
		}
}

END {
	print "cmd_" target " := " ENVIRON["cmd"] "\n"
	print "source_" target " := " files[1] "\n"
	print "deps_" target " := \\"
	options(files[1])
	for (i = 2; i <= count; i++)
		# autoconf.h has every option; the files in include/config stand for them.
		if (files[i] !~ /include\/generated\/autoconf\.h$/) {
			print "  " files[i] " \\"
			options(files[i])
		}
	print "\n" target ": $(deps_" target ")\n"
	print "$(deps_" target "):"
}
