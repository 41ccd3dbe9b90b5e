# Version and commit, compiled in; `siglip --version` prints them.
execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} rev-parse --short=12 HEAD
                OUTPUT_VARIABLE SIGLIP_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT SIGLIP_COMMIT)
  set(SIGLIP_COMMIT "unknown")
endif()
