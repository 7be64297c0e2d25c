# bash completion for dtun, made from src/cli/table: do not edit.

_dtun_offer() {
    mapfile -t COMPREPLY < <(compgen "$@" -- "$cur")
}

_dtun() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=
    COMPREPLY=()
    # For bash, "-flag=value" is three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    case ${prev/#--/-} in
        -bypass | -key-file | -config | -up | -down) _dtun_offer -f; compopt -o filenames 2>/dev/null; return ;;
        -state) _dtun_offer -d; compopt -o filenames 2>/dev/null; return ;;
        -tun | -bind) _dtun_offer -W "$(command ls /sys/class/net)"; return ;;
        -listen | -pool4 | -lease | -allow-peernet | -nat-except | -connect | -id | -peernet | -dns | -table | -rule-pref | -key | -post-up | -post-down | -fwmark | -keepalive | -mtu | -for) return ;;
        -pool6) _dtun_offer -W 'none'; return ;;
        -fallback) _dtun_offer -W 'never'; return ;;
        -route) _dtun_offer -W 'default'; return ;;
        -route-from) _dtun_offer -W 'forwarded'; return ;;
        -suite) _dtun_offer -W 'gcm ccm ccm8'; return ;;
        -offload) _dtun_offer -W 'on off'; return ;;
        -log-format) _dtun_offer -W 'text json'; return ;;
    esac

    case ${COMP_WORDS[1]} in
        unlock) words='-for' ;;
        routes)
            case $COMP_CWORD in
                2) words='add del' ;;
                3) _dtun_offer -f; compopt -o filenames 2>/dev/null; return ;;
            esac
            ;;
        *)
            words='-listen -pool4 -pool6 -lease -allow-peernet -no-spoke-to-spoke -nat -nat-except -connect -id -peernet -tun -fallback -once -route -route-from -bypass -dns -bind -strict -table -rule-pref -key-file -config -key -up -down -post-up -post-down -fwmark -keepalive -mtu -suite -offload -state -log-format -v -version -h'
            ((COMP_CWORD > 1)) || words+=' lock unlock clean routes'
            ;;
    esac
    if [[ $cur == --* ]]; then
        words=" $words"
        words=${words// -/ --}
    fi
    _dtun_offer -W "$words"
}

complete -F _dtun dtun
