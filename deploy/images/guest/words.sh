# shellcheck shell=sh
# Words of the guest channel: percent coding and validation, without starting a program.
# Sourced by the agent. Every function leaves its answer in a named variable, because a
# command substitution costs a fork, which is slow in an emulated guest.

# is_number WORD: decimal digits only, at most 18 of them.
is_number() {
    case $1 in
    '' | *[!0-9]* | ???????????????????*) return 1 ;;
    esac
}

# is_plain WORD: safe in a file name and as a command's argument.
is_plain() {
    case $1 in
    '' | -* | *[!][A-Za-z0-9._:/,@=+~%-]*) return 1 ;;
    esac
}

# is_name WORD: one component of a path or a node's name.
is_name() {
    case $1 in
    '' | -* | .* | *[!A-Za-z0-9._-]*) return 1 ;;
    esac
}

# percent_decode TEXT: the text in $decoded. Fails on a broken escape and on control characters
# (a line feed would forge a line in a file that we write).
percent_decode() {
    decoded=
    _rest=$1
    while :; do
        case $_rest in
        *%*) ;;
        *) break ;;
        esac
        decoded=$decoded${_rest%%\%*}
        _rest=${_rest#*%}
        _hex=${_rest%"${_rest#??}"}
        _rest=${_rest#"$_hex"}
        case $_hex in
        2[Ff]) decoded=$decoded/ ;;
        3[Aa]) decoded=$decoded: ;;
        2[Cc]) decoded=$decoded, ;;
        3[Dd]) decoded=$decoded= ;;
        20) decoded="$decoded " ;;
        [2-689A-Fa-f][0-9A-Fa-f] | 7[0-9A-Ea-e])
            # shellcheck disable=SC2059
            decoded=$decoded$(printf "\\$(printf %03o "0x$_hex")")
            ;;
        *) return 1 ;;
        esac
    done
    decoded=$decoded$_rest
}

# percent_encode TEXT: the text in $encoded, with everything but unreserved characters escaped.
# Bytes outside ASCII become "?": the text is for a human who reads a log.
percent_encode() {
    encoded=
    _rest=$1
    while [ -n "$_rest" ]; do
        _tail=${_rest#?}
        _char=${_rest%"$_tail"}
        _rest=$_tail
        case $_char in
        [A-Za-z0-9._~-]) encoded=$encoded$_char ;;
        ' ') encoded=$encoded%20 ;;
        [\ -~]) encoded=$encoded$(printf '%%%02X' "'$_char") ;;
        *) encoded=$encoded%3F ;;
        esac
    done
}
