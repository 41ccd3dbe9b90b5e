#pragma once

// From what a command line names (files, folders, patterns, lists) to a list of image files and
// archives, the same on every run and every machine.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "bulk/names.h"

namespace siglip::bulk {

// What an input is, by its extension alone: nothing is opened.
enum class InputKind { kImage, kTar, kParquet };
InputKind KindOf(std::string_view path);

// True for the extension of an image format, in any case.
bool HasImageExtension(std::string_view path);

// Appends to `names`:
//   a file         as it is, whatever its extension
//   a folder       its image files and tar archives, walked recursively, in byte order of their
//                  paths; symlinks to files are followed, to folders not, and what leads nowhere
//                  is listed, so that reading it fails. Parquet files are not taken: beside
//                  webdataset shards they hold captions
//   a pattern      what matches it, each once, in byte order: * ? [], one ** for any depth of
//                  folders, and {a,b} of all these, as shells have it; folders that match are
//                  walked. A file that has the pattern as its name wins
// NotFound names what is not there, PermissionDenied the folder that cannot be read. Files are not
// touched: the file type comes with the folder's listing.
absl::Status ListInputs(const std::vector<std::string>& paths, NameList& names);

// Appends the entries of a list, which end with `separator`; empty ones are skipped, and before
// '\n' a '\r'. `path` "-" is standard input.
absl::Status ReadNameList(const std::string& path, char separator, NameList& names);

}  // namespace siglip::bulk
