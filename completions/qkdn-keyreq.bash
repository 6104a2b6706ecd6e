# Completion of qkdn-keyreq for bash.
_qkdn_keyreq()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local connection="--authority --certificate --km --km-dns-name --km-name --private-key --trace --trace-id"
	local common="--help --json --timeout $connection"

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "get get-by-id status --help --version" -- "$cur")
		return
	fi
	case $prev in
	--out)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--authority | --certificate | --private-key | --trace)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--to | --from | -n | --number | -s | --size | --priority | --timeout | --km | --km-name | --km-dns-name | --trace-id)
		return
		;;
	esac
	case ${COMP_WORDS[1]} in
	get)
		mapfile -t COMPREPLY < <(compgen -W "--to --number --size --priority --reveal --out $common" -- "$cur")
		;;
	get-by-id)
		mapfile -t COMPREPLY < <(compgen -W "--from --reveal --out $common" -- "$cur")
		;;
	status)
		mapfile -t COMPREPLY < <(compgen -W "--to $common" -- "$cur")
		;;
	esac
}
complete -o filenames -F _qkdn_keyreq qkdn-keyreq
