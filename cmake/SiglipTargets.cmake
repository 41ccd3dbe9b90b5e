# The repetition of every folder's CMakeLists: one library per folder, one executable per test file.
# Include paths start at src/; warnings and sanitizers are private to our own targets.

function(siglip_compile_settings target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE -pthread -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
                         -Werror=unused-result)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Wthread-safety)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False alarms of GCC 12: values that simdjson's get() sets on every path that reads them, and
    # string concatenation (GCC bug 105651).
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-restrict)
  endif()
  if(SIGLIP_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(SIGLIP_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${SIGLIP_SANITIZE} -fno-omit-frame-pointer)
    if(SIGLIP_SANITIZE_LESS)
      target_compile_options(${target} PRIVATE -fno-sanitize=${SIGLIP_SANITIZE_LESS})
    endif()
    if(SIGLIP_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -Wno-tsan)  # of Asio's fences, at each use
    endif()
    target_link_options(${target} PUBLIC -fsanitize=${SIGLIP_SANITIZE})
    if(SIGLIP_SANITIZE MATCHES "undefined")
      target_compile_options(${target} PRIVATE -fno-sanitize-recover=undefined)
    endif()
  endif()
endfunction()

# Folders whose files all spend most of their compile time on the same templates (CLI11, Beast, GoogleTest's matchers)
# compile several files as one; their file-local names must differ. Off with -DSIGLIP_UNITY=OFF.
option(SIGLIP_UNITY "Compile several files of the heaviest folders as one" ON)
function(siglip_unity target files)
  if(SIGLIP_UNITY AND files)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${files})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # It takes the files for headers.
      target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
    endif()
  endif()
endfunction()

# Compile options of all that is not marked LOOPS. In a sanitizer build optimising such code costs half of its compile time,
# and its tests mostly wait; those of what loops over pixels, numbers or characters would take many times as long without.
set(SIGLIP_PLAIN_FLAGS "" CACHE STRING "Compile options of code without long loops")
function(siglip_plain target)
  target_compile_options(${target} PRIVATE ${SIGLIP_PLAIN_FLAGS})
endfunction()

# siglip_precompile(TARGET KIND LOOPS): the headers that nearly every file includes are compiled once for all targets of
# one KIND (library, once, test). GCC takes a precompiled header only where options are the same, and crashes instead of
# saying so where the level of optimisation differs.
option(SIGLIP_PRECOMPILED "Precompile the headers that most files include" ON)
function(siglip_precompile target kind loops)
  if(NOT SIGLIP_PRECOMPILED)
    return()
  endif()
  set(owner siglip_precompiled_${kind})
  if(loops AND SIGLIP_PLAIN_FLAGS)
    string(APPEND owner _loops)
  endif()
  if(NOT TARGET ${owner})
    add_library(${owner} OBJECT ${CMAKE_SOURCE_DIR}/cmake/precompiled.cc)
    siglip_compile_settings(${owner})
    if(NOT loops)
      siglip_plain(${owner})
    endif()
    if(NOT kind STREQUAL "library")
      siglip_runs_once(${owner})
    endif()
    if(kind STREQUAL "test")
      siglip_part_of_program(${owner})
      target_link_libraries(${owner} PRIVATE GTest::gtest GTest::gmock)
      target_precompile_headers(${owner} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled_test.h)
    else()
      target_precompile_headers(${owner} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h)
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${owner})
endfunction()

# Sources with kernels of Highway: GCC's header of SVE cannot be read after a precompiled one.
function(siglip_highway_sources)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    set_source_files_properties(${ARGN} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
  endif()
endfunction()

# siglip_add_library(NAME SOURCES a.cc ... PUBLIC lib ... PRIVATE lib ... [UNITY files] [LOOPS] [ONCE] [OPTIONS -f...])
# makes target siglip_NAME. LOOPS: see SIGLIP_PLAIN_FLAGS. ONCE: see siglip_runs_once. OPTIONS: compile options of its own.
function(siglip_add_library name)
  cmake_parse_arguments(ARG "LOOPS;ONCE" "UNITY" "SOURCES;PUBLIC;PRIVATE;OPTIONS" ${ARGN})
  set(target siglip_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR}/src
                             ${CMAKE_SOURCE_DIR}/include)
  target_link_libraries(${target} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  siglip_compile_settings(${target})
  target_compile_options(${target} PRIVATE ${ARG_OPTIONS})
  siglip_unity(${target} "${ARG_UNITY}")
  if(NOT ARG_LOOPS)
    siglip_plain(${target})
  endif()
  if(ARG_ONCE)
    siglip_runs_once(${target})
  endif()
  if(ARG_OPTIONS AND SIGLIP_PRECOMPILED)
    target_precompile_headers(${target} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h)
  elseif(ARG_ONCE)
    siglip_precompile(${target} once ${ARG_LOOPS})
  else()
    siglip_precompile(${target} library ${ARG_LOOPS})
  endif()
endfunction()

# CTest takes a match for a skipped test even if the program failed. GoogleTest ends with the list of skipped tests
# only if none failed.
set(SIGLIP_SKIPPED "\\[  SKIPPED \\] [^\n]*\n*$")

# Each test has a folder for its files: two of them, or two builds, may run at once.
function(siglip_test_folder name result)
  set(folder "${CMAKE_BINARY_DIR}/test_files/${name}")
  file(MAKE_DIRECTORY "${folder}")
  set(${result} "TMPDIR=${folder}" PARENT_SCOPE)
endfunction()

# The processors that qemu emulates when a test of the arm64 preset runs: one without SVE, and one with 256 bits of it.
# Elsewhere nobody reads the variable.
set(SIGLIP_QEMU_NEON "QEMU_CPU=max,sve=off")
set(SIGLIP_QEMU_SVE_256 "QEMU_CPU=max,sve-default-vector-length=32")

# For code that reads options, builds plans or tests: a third less to compile. What it calls keeps its own setting.
function(siglip_runs_once target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# Objects that only programs are linked from are compiled as a program's own are.
function(siglip_part_of_program target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE ${CMAKE_CXX_COMPILE_OPTIONS_PIE})
endfunction()

# What every program of tests, and every part of one, is compiled with.
function(siglip_test_settings target loops)
  target_link_libraries(${target} PRIVATE ${ARGN} GTest::gtest GTest::gmock)
  siglip_compile_settings(${target})
  if(NOT loops)
    siglip_plain(${target})
  endif()
  siglip_runs_once(${target})
  siglip_precompile(${target} test ${loops})
endfunction()

# siglip_add_test_objects(NAME SOURCES a_test.cc ... LIBS lib ... [LOOPS]): compiled once for several programs of tests,
# which name $<TARGET_OBJECTS:NAME> among their SOURCES.
function(siglip_add_test_objects name)
  if(SIGLIP_BUILD_TESTS)
    cmake_parse_arguments(ARG "LOOPS" "" "SOURCES;LIBS" ${ARGN})
    add_library(${name} OBJECT ${ARG_SOURCES})
    siglip_part_of_program(${name})
    siglip_test_settings(${name} ${ARG_LOOPS} ${ARG_LIBS})
  endif()
endfunction()

# `./test` runs every test in the sanitizer build, and in the optimised one those marked LOOPS or RELEASE: where optimised
# kernels compute, or where the sanitizer build leaves something out. The others have the label `plain`.
option(SIGLIP_PLAIN_TESTS "Build the tests labelled plain; OFF: they are built by name, for ctest -LE plain" ON)

# siglip_add_test(NAME SOURCES a_test.cc ... LIBS lib ... [LABELS slow] [ENV "A=b" ...] [UNITY files] [LOOPS] [RELEASE])
# Tests run from the source directory's root, so that they name committed files by relative path.
function(siglip_add_test name)
  if(NOT SIGLIP_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "LOOPS;RELEASE" "UNITY" "SOURCES;LIBS;LABELS;ENV" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  if(NOT ARG_LOOPS AND NOT ARG_RELEASE)
    list(APPEND ARG_LABELS plain)
    if(NOT SIGLIP_PLAIN_TESTS)
      set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
    endif()
  endif()
  siglip_test_settings(${name} ${ARG_LOOPS} ${ARG_LIBS} GTest::gtest_main)
  siglip_unity(${name} "${ARG_UNITY}")
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  siglip_test_folder(${name} folder)
  set_tests_properties(${name} PROPERTIES LABELS "unit;${ARG_LABELS}"
                       ENVIRONMENT "${folder};${SIGLIP_QEMU_NEON};${SIGLIP_EMULATOR_ENV};${ARG_ENV}" TIMEOUT 600
                       SKIP_REGULAR_EXPRESSION "${SIGLIP_SKIPPED}")
endfunction()

# siglip_add_test_variants(NAME isa...): the same program on the kernels of each of these x86 instruction sets. On Arm NAME
# demands NEON, and the variant is SVE.
function(siglip_add_test_variants name)
  if(NOT SIGLIP_BUILD_TESTS)
    return()
  endif()
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT SIGLIP_TEST_ISA=neon)
    set(ARGN sve_256)
  endif()
  get_property(labels TEST ${name} PROPERTY LABELS)
  foreach(isa ${ARGN})
    add_test(NAME ${name}_${isa} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    siglip_test_folder(${name}_${isa} folder)
    # src/kernels/test_isa.h says so before the first test, and GoogleTest then counts all of them as passed.
    set_tests_properties(${name}_${isa} PROPERTIES LABELS "${labels}"
                         ENVIRONMENT "${folder};${SIGLIP_QEMU_SVE_256};SIGLIP_TEST_ISA=${isa}" TIMEOUT 600
                         SKIP_REGULAR_EXPRESSION "${SIGLIP_SKIPPED};SIGLIP_TEST_SKIPPED: this machine has no")
  endforeach()
endfunction()

# siglip_add_bench(NAME SOURCES a_bench.cc ... LIBS lib ...): Google Benchmark, never a test.
function(siglip_add_bench name)
  if(NOT SIGLIP_BUILD_BENCH)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} benchmark::benchmark)
  siglip_compile_settings(${name})
endfunction()

# siglip_add_fuzzer(NAME SOURCES a_fuzz.cc LIBS lib ... [SEEDS folder]): a libFuzzer program in the preset fuzz; elsewhere a
# test, NAME_replay, that runs it over its seeds, tests/fuzz/NAME if nothing else is said.
function(siglip_add_fuzzer name)
  cmake_parse_arguments(ARG "" "SEEDS" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_SEEDS)
    set(ARG_SEEDS tests/fuzz/${name})
  endif()
  if(SIGLIP_BUILD_FUZZ)
    add_executable(${name} ${ARG_SOURCES})
    target_link_libraries(${name} PRIVATE ${ARG_LIBS})
    siglip_compile_settings(${name})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  elseif(SIGLIP_BUILD_TESTS AND SIGLIP_BUILD_PROGRAM)
    if(NOT TARGET siglip_fuzz_replay)
      siglip_add_test_objects(siglip_fuzz_replay SOURCES ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.cc)
    endif()
    siglip_add_test(${name}_replay SOURCES ${ARG_SOURCES} $<TARGET_OBJECTS:siglip_fuzz_replay> LIBS ${ARG_LIBS}
                    ENV SIGLIP_FUZZ_SEEDS=${ARG_SEEDS})
  endif()
endfunction()
