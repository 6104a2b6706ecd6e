# Completion of qkdn-keyreq, qkdnctl, qkdn-lab and qkdn-pki for bash. Commands and options are what the
# program itself tells with --help; everything else is completed as a file.
_qkdn()
{
	local program=$1 cur=$2 begun= commands words=()

	commands=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z-]*\( [a-z][a-z-]*\)\{0,1\}\)  .*/\1/p')
	words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
	COMPREPLY=()
	if [ ${#words[@]} -eq 0 ]; then
		begun=$(sed 's/ .*//' <<<"$commands" | uniq)$'\n--help\n--version'
	elif ! grep -qxF -e "${words[0]}" -e "${words[*]:0:2}" <<<"$commands"; then
		begun=$(sed -n "s/^${words[0]} //p" <<<"$commands") # the first of two words
	elif [[ $cur == -* ]]; then
		grep -qxF -e "${words[0]}" <<<"$commands" && words=("${words[0]}")
		begun=$("$program" "${words[@]:0:2}" --help 2>/dev/null | sed -n 's/^ \{2,6\}\(-[^ ]*, \)\{0,1\}\(--[a-z-]*\).*/\2/p')
	fi
	mapfile -t COMPREPLY < <(compgen -W "$begun" -- "$cur")
}
complete -o default -F _qkdn qkdn-keyreq qkdnctl qkdn-lab qkdn-pki
