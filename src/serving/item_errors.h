#pragma once

// Errors that single items of a request have. A status that is made of them carries them along, by
// item, so that whoever had split the request can name its own items.

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace siglip {

struct ItemError {
  std::size_t item = 0;
  absl::Status status = {};  // code and text
};

// How an item is called: "item 7", "input[7]".
struct ItemName {
  std::string before = "item ";
  std::string after = {};
};

// One status for a request of `items` items: "3 of 60 items failed: item 0: TEXT; item 7: TEXT;
// ...". All of `errors`, which are in the items' order, are named; the first few with their texts.
// A request of one item has that item's text alone. Its code is the first's; Internal if one is:
// then not everything is the client's fault. OK without errors.
absl::Status JoinItemErrors(std::size_t items, const std::vector<ItemError>& errors,
                            const ItemName& name = {});

// Those among the statuses of a request's items that are errors.
std::vector<ItemError> ErrorsAmong(const std::vector<absl::Status>& statuses);

// What JoinItemErrors was made of, whatever has been put before its text; empty for other statuses.
std::vector<ItemError> ItemErrorsOf(const absl::Status& status);

// "item 1, item 4..6". REQUIRES: ascending, not empty.
std::string NameItems(const std::vector<std::size_t>& items, const ItemName& name = {});

}  // namespace siglip
