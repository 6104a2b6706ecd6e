# Completion of qkdnctl for bash.
_qkdnctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "trace --help --version" -- "$cur")
		return
	fi
	case $prev in
	--svg)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--only)
		mapfile -t COMPREPLY < <(compgen -W "Ak Ck Cx Kq-1 Kq-2 Kx-1 Kx-2" -- "$cur")
		return
		;;
	--trace | --title)
		return
		;;
	esac
	case $cur in
	-*)
		mapfile -t COMPREPLY < <(compgen -W "--all --ascii --help --json --list --only --svg --times
			--title --trace" -- "$cur")
		;;
	*)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		;;
	esac
}
complete -o filenames -F _qkdnctl qkdnctl
