#pragma once

// Images behind URLs: fetched for the operator's allow-list alone, and only from addresses of the
// public internet. Every URL is a stranger's, and so is every answer.

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "serving/budget.h"

struct sockaddr;

namespace siglip {

// Which servers an operator lets images come from. Thread-safe after Parse.
class ImageHosts {
 public:
  // Each text is "HOST[:PORT]" for https, or "http://HOST[:PORT]" for http alone. No patterns.
  // InvalidArgument quotes the text.
  static absl::StatusOr<ImageHosts> Parse(const std::vector<std::string>& texts);

  bool empty() const { return origins_.empty(); }
  // InvalidArgument unless `url` is one whose scheme, host and port are on the list, without a
  // user's name in it. It is read by the parser that will fetch it.
  absl::Status Check(const std::string& url) const;

 private:
  std::vector<std::string> origins_;  // "https://host:443", in lower case
};

// Whether an address belongs to the public internet: not this machine's, not a private network's,
// link-local (where clouds keep credentials), multicast, reserved, or an IPv6 form of such a one.
bool IsPublicAddress(const sockaddr& address);

struct ImageFetchOptions {
  std::vector<std::string> allow = {};  // as ImageHosts::Parse
  bool allow_private = false;           // addresses that are not public, too
  std::string root_cert = {};           // PEM file of trusted roots; empty = the system's
  std::size_t max_bytes = std::size_t{1} << 26;
  std::chrono::milliseconds timeout{10'000};  // from Fetch to the last byte
  int max_running = 16;
  std::size_t max_waiting = 256;
  // Of images being fetched; null = no limit.
  std::shared_ptr<Budget> budget = {};
};

// An image file, and what counts its bytes.
struct FetchedImage {
  std::string bytes;
  Budget::Hold hold;
};

// One thread that fetches. Thread-safe.
class ImageFetcher {
 public:
  using Done = std::function<void(absl::StatusOr<FetchedImage>)>;

  // `options.allow` may be empty: then every URL is refused.
  static absl::StatusOr<std::unique_ptr<ImageFetcher>> Start(ImageFetchOptions options);
  ~ImageFetcher();
  // What is still to come, and whatever is asked from now on, is answered Unavailable. Called by
  // one thread.
  void End();

  // Whether the URL may be fetched, as ImageHosts::Check. At once.
  absl::Status Check(const std::string& url) const { return hosts_.Check(url); }
  // Counts what a request keeps while its images come, beside them. Overloaded: there is no room.
  absl::StatusOr<Budget::Hold> HoldRequest(std::size_t bytes) const;
  // The body of a 200, on the fetching thread; or, at once on this one, Unavailable if too many
  // wait. InvalidArgument: what the URL's server did wrong. `is_cancelled` ends it early.
  // `done` must not block.
  void Fetch(std::string url, std::function<bool()> is_cancelled, Done done);

 private:
  struct Transfer;
  struct Multi;
  ImageFetcher(ImageFetchOptions options, ImageHosts hosts, std::unique_ptr<Multi> multi);
  void Run();
  void StartWaiting();
  void EndFinished();
  void EndCancelled();

  const ImageFetchOptions options_;
  const ImageHosts hosts_;
  const std::unique_ptr<Multi> multi_;
  Mutex mu_;
  std::deque<std::unique_ptr<Transfer>> waiting_ SIGLIP_GUARDED_BY(mu_);
  bool ending_ SIGLIP_GUARDED_BY(mu_) = false;
  std::vector<std::unique_ptr<Transfer>> running_;  // of the thread
  std::thread thread_;
};

}  // namespace siglip
