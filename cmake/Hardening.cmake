# What makes a bug harder to exploit, and a build repeatable. tests/pytest/deploy/test_binary.py looks at the program,
# tools/reproducible.sh builds twice. Not with sanitizers, which do more and do it themselves.
include(CheckPIESupported)
check_pie_supported(LANGUAGES CXX)

# The same bytes whatever folder is built in; __DATE__ and __TIME__ would differ. The last map that fits is taken.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
set(hardening -ffile-prefix-map=${CMAKE_SOURCE_DIR}=. -ffile-prefix-map=${CMAKE_BINARY_DIR}=build -Wdate-time)
if(NOT SIGLIP_SANITIZE)
  list(APPEND hardening -fstack-protector-strong)
  if(CMAKE_BUILD_TYPE MATCHES "Rel")
    list(APPEND hardening -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)  # needs optimisation
  endif()
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    # Landing pads for indirect calls. The program as a whole does not ask for them: Debian 12's C library and archives
    # are built without.
    list(APPEND hardening -fcf-protection=full)
  endif()
  add_link_options(LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:${hardening}>")
