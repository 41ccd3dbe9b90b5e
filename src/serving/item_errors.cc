#include "serving/item_errors.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"

namespace siglip {
namespace {

constexpr char kItemErrorsUrl[] = "siglip/item_errors";

// Items with their texts: a message is no log file.
constexpr std::size_t kMaxQuotedItems = 8;

// "ITEM CODE BYTES " and the text, one after the other.
absl::Cord Pack(const std::vector<ItemError>& errors) {
  std::string packed;
  for (const ItemError& error : errors) {
    absl::StrAppend(&packed, error.item, " ", static_cast<int>(error.status.code()), " ",
                    error.status.message().size(), " ", error.status.message());
  }
  return absl::Cord(packed);
}

std::optional<std::size_t> TakeNumber(std::string_view& packed) {
  const std::size_t space = packed.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const auto number = ParseInt<std::size_t>(packed.substr(0, space));
  packed.remove_prefix(space + 1);
  return number;
}

}  // namespace

absl::Status JoinItemErrors(std::size_t items, const std::vector<ItemError>& errors,
                            const ItemName& name) {
  if (errors.empty()) return absl::OkStatus();
  absl::StatusCode code = errors[0].status.code();
  std::string text;
  std::vector<std::size_t> unquoted;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    const absl::Status& status = errors[i].status;
    if (status.code() == absl::StatusCode::kInternal) code = absl::StatusCode::kInternal;
    if (i < kMaxQuotedItems) {
      absl::StrAppend(&text, i == 0 ? "" : "; ", name.before, errors[i].item, name.after, ": ",
                      status.message());
    } else {
      unquoted.push_back(errors[i].item);
    }
  }
  if (items == 1) {
    text = std::string(errors[0].status.message());
  } else {
    text = absl::StrCat(errors.size(), " of ", items, " items failed: ", text);
  }
  if (!unquoted.empty()) {
    absl::StrAppend(&text, "; and ", unquoted.size(), " more: ", NameItems(unquoted, name));
  }
  absl::Status joined(code, text);
  joined.SetPayload(kItemErrorsUrl, Pack(errors));
  return joined;
}

std::vector<ItemError> ErrorsAmong(const std::vector<absl::Status>& statuses) {
  std::vector<ItemError> errors;
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    if (!statuses[i].ok()) errors.push_back({.item = i, .status = statuses[i]});
  }
  return errors;
}

std::vector<ItemError> ItemErrorsOf(const absl::Status& status) {
  std::vector<ItemError> errors;
  const auto payload = status.GetPayload(kItemErrorsUrl);
  if (!payload) return errors;
  const std::string packed(*payload);
  std::string_view left = packed;
  while (!left.empty()) {
    const auto item = TakeNumber(left);
    const auto code = TakeNumber(left);
    const auto bytes = TakeNumber(left);
    if (!item || !code || !bytes || *bytes > left.size()) return {};  // never of our own making
    errors.push_back({.item = *item,
                      .status = absl::Status(static_cast<absl::StatusCode>(*code),
                                             std::string(left.substr(0, *bytes)))});
    left.remove_prefix(*bytes);
  }
  return errors;
}

std::string NameItems(const std::vector<std::size_t>& items, const ItemName& name) {
  std::string text;
  for (std::size_t i = 0; i < items.size();) {
    std::size_t last = i;
    while (last + 1 < items.size() && items[last + 1] == items[last] + 1) ++last;
    absl::StrAppend(&text, i == 0 ? "" : ", ", name.before, items[i]);
    if (last != i) absl::StrAppend(&text, "..", items[last]);
    text += name.after;
    i = last + 1;
  }
  return text;
}

}  // namespace siglip
