# bash completion of siglip: commands and options are asked of the program.
_siglip() {
  local word=${COMP_WORDS[COMP_CWORD]} command=() next help commands
  for next in "" "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    # The program itself first, then each command that is one of those below it.
    [[ -z $next ]] || grep -qxF -e "$next" <<<"$commands" || continue
    command+=(${next:+"$next"})
    help=$("${COMP_WORDS[0]}" "${command[@]}" --help 2>/dev/null)
    commands=$(sed -n '/^Subcommands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p' <<<"$help")
  done
  if [[ $word == -* ]]; then
    # At the start of a line: descriptions, further to the right, name options of others too.
    mapfile -t COMPREPLY < <(compgen -W "$(sed -nE 's/^ {2,4}(-[^ ]+).*/\1/p' <<<"$help" | tr , ' ')" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
  fi
}
complete -o default -F _siglip siglip
