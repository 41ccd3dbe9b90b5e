# `cmake --install`: the program (component program), libsiglip.so (library), headers with the CMake package and
# pkg-config files (dev), the module for Parquet (parquet), the GPU engine's modules (cuda). `cpack -G DEB` makes a Debian
# package of each but the last two; docs/packages.md.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(cmake_folder ${CMAKE_INSTALL_LIBDIR}/cmake/siglip)
install(TARGETS siglip_shared EXPORT siglipTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT dev)
install(DIRECTORY include/siglip DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
install(EXPORT siglipTargets NAMESPACE siglip:: DESTINATION ${cmake_folder} COMPONENT dev)
configure_package_config_file(cmake/siglipConfig.cmake.in ${CMAKE_BINARY_DIR}/install/siglipConfig.cmake
                              INSTALL_DESTINATION ${cmake_folder} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/install/siglipConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/install/siglipConfig.cmake ${CMAKE_BINARY_DIR}/install/siglipConfigVersion.cmake
        DESTINATION ${cmake_folder} COMPONENT dev)
# Paths relative to the file, so that the whole can be moved.
file(RELATIVE_PATH SIGLIP_PC_PREFIX /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
foreach(name siglip siglip-cpp)
  configure_file(cmake/${name}.pc.in ${CMAKE_BINARY_DIR}/install/${name}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/install/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
endforeach()

if(SIGLIP_BUILD_PROGRAM)
  install(TARGETS siglip RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
  # From what the program says of itself, so that it is never older than the program.
  set(man_page ${CMAKE_BINARY_DIR}/install/siglip.1)
  add_custom_command(OUTPUT ${man_page} COMMAND python3 ${CMAKE_SOURCE_DIR}/tools/man_page.py $<TARGET_FILE:siglip> ${man_page}
                     DEPENDS siglip ${CMAKE_SOURCE_DIR}/tools/man_page.py VERBATIM)
  add_custom_target(man_page ALL DEPENDS ${man_page})
  install(FILES ${man_page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program)
  install(FILES packaging/siglip.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
          RENAME siglip COMPONENT program)
  install(FILES packaging/siglip.service DESTINATION lib/systemd/system COMPONENT program)
endif()

# Where the program looks for it (src/bulk). Arrow itself stays where it was found.
if(SIGLIP_BUILD_PROGRAM AND TARGET siglip_parquet)
  set_target_properties(siglip_parquet PROPERTIES INSTALL_RPATH ${arrow_folder})
  install(TARGETS siglip_parquet LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT parquet)
endif()

# Beside libsiglip.so; the program looks there too (src/engine/cuda).
foreach(module siglip_cuda siglip_cudnn)
  if(TARGET ${module})
    set_target_properties(${module} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)  # of the toolkit's libraries
    install(TARGETS ${module} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cuda)
  endif()
endforeach()

set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "SigLIP image and text embeddings, served as Triton does")
set(CPACK_PACKAGE_CONTACT "the authors of siglip.cpp <noreply@example.com>")
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program library dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME siglip)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "The server and the command line.")
foreach(script postinst prerm postrm)
  list(APPEND CPACK_DEBIAN_PROGRAM_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/packaging/debian/${script})
endforeach()
set(CPACK_DEBIAN_PROGRAM_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME libsiglip0)
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "The shared library, with an API for C and one for C++.")
set(CPACK_DEBIAN_DEV_PACKAGE_NAME libsiglip-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_DESCRIPTION "Headers, CMake package and pkg-config files of libsiglip0.")
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS "libsiglip0 (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS "libabsl-dev")
foreach(component PROGRAM LIBRARY DEV)
  string(TOLOWER ${component} lower)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${component}_PACKAGE_NAME}
          RENAME copyright COMPONENT ${lower})
endforeach()
include(CPack)
