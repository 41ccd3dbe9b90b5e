# Writes OUTPUT: the file PAGE as a raw string. Run by src/server/CMakeLists.txt.
file(READ "${PAGE}" text)
file(WRITE "${OUTPUT}" "#include \"server/ui.h\"\n\nnamespace siglip {\n\n"
                       "std::string_view UiPage() {\n  return R\"page(${text})page\";\n}\n\n}  // namespace siglip\n")
