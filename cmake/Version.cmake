# Version and commit, compiled in; `siglip --version` prints them.
set(SIGLIP_COMMIT "" CACHE STRING "Commit of sources that have no history beside them; empty: asked of git")
if(NOT SIGLIP_COMMIT)
  execute_process(COMMAND git -C ${CMAKE_SOURCE_DIR} rev-parse --short=12 HEAD
                  OUTPUT_VARIABLE SIGLIP_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT SIGLIP_COMMIT)
  set(SIGLIP_COMMIT "unknown")
endif()
