# bash completion of siglip: commands and options are asked of the program.
_siglip() {
  local word=${COMP_WORDS[COMP_CWORD]} command="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} != -* && ${COMP_WORDS[i - 1]} != --log-level ]] && { command=${COMP_WORDS[i]}; break; }
  done
  if [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$("${COMP_WORDS[0]}" $command --help 2>/dev/null |
      grep -oE -- '(^|[ ,])--?[a-z][a-z0-9-]*' | tr -d ' ,')" -- "$word")
  elif [[ -z $command ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$("${COMP_WORDS[0]}" --help 2>/dev/null |
      sed -n '/^Subcommands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p')" -- "$word")
  fi
}
complete -o default -F _siglip siglip
