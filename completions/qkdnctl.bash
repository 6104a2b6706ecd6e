# Completion of qkdnctl for bash.
_qkdnctl_daemon()
{
	local words="--json --lab --node --help"

	if [ "$COMP_CWORD" -eq 2 ]; then
		words=show
		case ${COMP_WORDS[1]} in
		link | pool | relay) words=list ;;
		km) words="change-master-key status" ;;
		esac
	elif [ "$2" = --lab ]; then
		mapfile -t COMPREPLY < <(compgen -d -- "$1")
		return
	elif [ "${COMP_WORDS[1]}" = route ]; then
		words="$words --disjoint"
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$1")
}

_qkdnctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "km link pool relay route topology trace --help --version" -- "$cur")
		return
	fi
	case ${COMP_WORDS[1]} in
	km | link | pool | relay | route | topology)
		_qkdnctl_daemon "$cur" "$prev"
		return
		;;
	esac
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
		mapfile -t COMPREPLY < <(compgen -W "--all --ascii --help --json --lines --list --only --svg --times
			--title --trace" -- "$cur")
		;;
	*)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		;;
	esac
}
complete -o filenames -F _qkdnctl qkdnctl
