#include "server/image_fetcher.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include <curl/curl.h>

#include "base/log.h"
#include "base/status_macros.h"
#include "protocol/text.h"
#include "serving/overload.h"

namespace siglip {
namespace {

constexpr std::size_t kMaxUrlBytes = 4096;
// As what our own doors take of a head.
constexpr std::size_t kMaxHeadBytes = 16 * 1024;
// How late a client's hanging up is noticed.
constexpr int kPollMs = 100;
// Fetch wakes the thread; this is only an upper bound.
constexpr int kIdleMs = 60'000;

struct CurlUrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using CurlUrl = std::unique_ptr<CURLU, CurlUrlDeleter>;

absl::StatusOr<CurlUrl> ParseUrl(const std::string& text) {
  CurlUrl url(curl_url());
  if (url == nullptr) return absl::ResourceExhaustedError("no memory for the URL");
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return absl::InvalidArgumentError("expected an absolute URL");
  }
  return url;
}

// A part of the URL, empty if it has none.
std::string UrlPart(const CurlUrl& url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url.get(), part, &text, flags) != CURLUE_OK) return "";
  std::string copy(text);
  curl_free(text);
  return copy;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), AsciiLower);
  return text;
}

std::string Scheme(const std::string& url) { return Lower(url.substr(0, url.find(':'))); }

std::string OriginOf(const CurlUrl& url) {
  return Lower(Concat(UrlPart(url, CURLUPART_SCHEME), "://", UrlPart(url, CURLUPART_HOST), ":",
                      UrlPart(url, CURLUPART_PORT, CURLU_DEFAULT_PORT)));
}

struct Ipv4Network {
  std::uint32_t address;
  int bits;
};

constexpr std::uint32_t V4(int a, int b, int c, int d) {
  return static_cast<std::uint32_t>(a) << 24 | static_cast<std::uint32_t>(b) << 16 |
         static_cast<std::uint32_t>(c) << 8 | static_cast<std::uint32_t>(d);
}

// IANA's registry of special-purpose IPv4 addresses, multicast and the reserved rest, and the
// address of Azure's host agent, which looks like a public one.
constexpr Ipv4Network kSpecialIpv4[] = {
    {V4(0, 0, 0, 0), 8},       {V4(10, 0, 0, 0), 8},     {V4(100, 64, 0, 0), 10},
    {V4(127, 0, 0, 0), 8},     {V4(169, 254, 0, 0), 16}, {V4(172, 16, 0, 0), 12},
    {V4(192, 0, 0, 0), 24},    {V4(192, 0, 2, 0), 24},   {V4(192, 31, 196, 0), 24},
    {V4(192, 52, 193, 0), 24}, {V4(192, 88, 99, 0), 24}, {V4(192, 168, 0, 0), 16},
    {V4(192, 175, 48, 0), 24}, {V4(198, 18, 0, 0), 15},  {V4(198, 51, 100, 0), 24},
    {V4(203, 0, 113, 0), 24},  {V4(224, 0, 0, 0), 3},    {V4(168, 63, 129, 16), 32},
};

bool IsPublicIpv4(std::uint32_t address) {
  return std::none_of(std::begin(kSpecialIpv4), std::end(kSpecialIpv4), [&](const Ipv4Network& n) {
    return (address ^ n.address) >> (32 - n.bits) == 0;
  });
}

std::uint32_t ReadV4(const std::uint8_t* bytes) {
  return V4(bytes[0], bytes[1], bytes[2], bytes[3]);
}

bool IsPublicIpv6(const std::uint8_t* b) {
  constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  constexpr std::array<std::uint8_t, 12> kNat64 = {0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0};
  // What is an IPv4 address in truth is judged as one.
  if (std::equal(kMapped.begin(), kMapped.end(), b)) return IsPublicIpv4(ReadV4(b + 12));
  if (std::equal(kNat64.begin(), kNat64.end(), b)) return IsPublicIpv4(ReadV4(b + 12));
  if (b[0] >> 5 != 1) return false;  // not 2000::/3, where all global unicast addresses are
  const std::uint32_t first = ReadV4(b);
  if (first >> 9 == 0x20010000U >> 9) return false;  // 2001::/23: protocols, Teredo among them
  if (first == 0x20010db8U) return false;            // 2001:db8::/32: documentation
  if (first >> 16 == 0x2002U) return false;          // 2002::/16: 6to4
  return first >> 12 != 0x3fff0U;                    // 3fff::/20: documentation
}

}  // namespace

bool IsPublicAddress(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return IsPublicIpv4(ntohl(v4.sin_addr.s_addr));
  }
  if (address.sa_family != AF_INET6) return false;
  return IsPublicIpv6(reinterpret_cast<const sockaddr_in6&>(address).sin6_addr.s6_addr);
}

absl::StatusOr<ImageHosts> ImageHosts::Parse(const std::vector<std::string>& texts) {
  ImageHosts hosts;
  for (const std::string& text : texts) {
    const bool is_http = text.starts_with("http://");
    const std::string whole = is_http ? text : Concat("https://", text);
    const absl::StatusOr<CurlUrl> url = ParseUrl(whole);
    const bool alone = text.find_first_of("/?#@ ", is_http ? 7 : 0) == std::string::npos;
    if (!alone || !url.ok() || UrlPart(*url, CURLUPART_HOST).empty()) {
      return absl::InvalidArgumentError(
          Concat("image URLs from '", text, "': expected HOST[:PORT], or http://HOST[:PORT]"));
    }
    hosts.origins_.push_back(OriginOf(*url));
  }
  return hosts;
}

absl::Status ImageHosts::Check(const std::string& text) const {
  if (text.size() > kMaxUrlBytes) {
    return absl::InvalidArgumentError(
        Concat("expected a URL of at most ", kMaxUrlBytes, " bytes, got ", text.size()));
  }
  if (text.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("expected a URL, got one with a zero byte");
  }
  SIGLIP_ASSIGN_OR_RETURN(const CurlUrl url, ParseUrl(text));
  if (!UrlPart(url, CURLUPART_USER).empty() || !UrlPart(url, CURLUPART_PASSWORD).empty()) {
    return absl::InvalidArgumentError("expected a URL without a user's name");
  }
  const std::string origin = OriginOf(url);
  if (std::find(origins_.begin(), origins_.end(), origin) != origins_.end()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(Concat("images are not fetched from ", origin));
}

// One image on its way. Confined to the fetching thread once it runs.
struct ImageFetcher::Transfer {
  ~Transfer() {
    if (easy != nullptr) curl_easy_cleanup(easy);
  }

  static curl_socket_t OpenSocket(void* self, curlsocktype, curl_sockaddr* address) {
    auto& transfer = *static_cast<Transfer*>(self);
    // This very address is connected to: nothing is looked up between check and use.
    if (!transfer.options->allow_private && !IsPublicAddress(address->addr)) {
      transfer.private_address = true;
      return CURL_SOCKET_BAD;
    }
    return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  }

  static std::size_t OnHead(char*, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    transfer.head_bytes += size * count;
    return transfer.head_bytes > kMaxHeadBytes ? 0 : size * count;
  }

  static std::size_t OnBody(char* data, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    const std::size_t bytes = size * count;
    if (bytes > transfer.options->max_bytes - transfer.image.bytes.size()) {
      transfer.too_large = true;
      return 0;
    }
    const auto& budget = transfer.options->budget;
    if (budget != nullptr &&
        !budget->TryGrow(transfer.image.hold, static_cast<std::int64_t>(bytes))) {
      transfer.out_of_room = true;
      return 0;
    }
    try {
      transfer.image.bytes.append(data, bytes);
    } catch (const std::bad_alloc&) {
      transfer.out_of_room = true;
      return 0;
    }
    return bytes;
  }

  bool SetUp();
  absl::Status StatusOf(CURLcode code) const;
  // Gives `done` what `make` says. Memory that fails there costs this transfer, not the thread.
  template <class Make>
  void Finish(Make make) {
    try {
      done(make());
    } catch (const std::bad_alloc&) {
      SIGLIP_LOG_ERROR("image_fetch_dropped reason=\"no memory\"");
    }
  }

  const ImageFetchOptions* options = nullptr;
  std::string url;
  std::function<bool()> is_cancelled;
  Done done;
  CURL* easy = nullptr;
  std::chrono::steady_clock::time_point deadline;
  FetchedImage image;
  std::size_t head_bytes = 0;
  bool private_address = false;
  bool too_large = false;
  bool out_of_room = false;
};

bool ImageFetcher::Transfer::SetUp() {
  easy = curl_easy_init();
  if (easy == nullptr) return false;
  // A deadline that passed in the queue ends the transfer at once; 0 would mean none.
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  const long timeout_ms = static_cast<long>(std::max<std::int64_t>(left.count(), 1));
  bool ok = true;
  const auto set = [&](CURLoption option, auto value) {
    ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK;
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PRIVATE, static_cast<void*>(this));
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, Scheme(url) == "http" ? "http" : "https");
  set(CURLOPT_FOLLOWLOCATION, 0L);
  // Whatever the environment says: a proxy would connect to addresses that nobody checked.
  set(CURLOPT_PROXY, "");
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_FORBID_REUSE, 1L);
  set(CURLOPT_FRESH_CONNECT, 1L);
  set(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!options->root_cert.empty()) set(CURLOPT_CAINFO, options->root_cert.c_str());
  set(CURLOPT_TIMEOUT_MS, timeout_ms);
  // A look-up that hangs in the C library is left behind, not waited for.
  set(CURLOPT_QUICK_EXIT, 1L);
  set(CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(options->max_bytes));
  set(CURLOPT_OPENSOCKETFUNCTION, &Transfer::OpenSocket);
  set(CURLOPT_OPENSOCKETDATA, static_cast<void*>(this));
  set(CURLOPT_HEADERFUNCTION, &Transfer::OnHead);
  set(CURLOPT_HEADERDATA, static_cast<void*>(this));
  set(CURLOPT_WRITEFUNCTION, &Transfer::OnBody);
  set(CURLOPT_WRITEDATA, static_cast<void*>(this));
  return ok;
}

absl::Status ImageFetcher::Transfer::StatusOf(CURLcode code) const {
  if (out_of_room) return absl::ResourceExhaustedError("no memory for the image of a URL");
  if (too_large || code == CURLE_FILESIZE_EXCEEDED) {
    return absl::InvalidArgumentError(
        Concat("the image of a URL is larger than the limit of ", options->max_bytes, " bytes"));
  }
  if (head_bytes > kMaxHeadBytes) {
    return absl::InvalidArgumentError(
        Concat("the URL's server sent a head of more than ", kMaxHeadBytes, " bytes"));
  }
  // Neither the address nor what answers there is told: that would be a map of our network.
  if (private_address) return absl::InvalidArgumentError("the URL's host has no public address");
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return absl::InvalidArgumentError(
        Concat("the image of a URL did not come within ", options->timeout.count(), " ms"));
  }
  if (code != CURLE_OK) {
    return absl::InvalidArgumentError(
        Concat("the image of a URL cannot be fetched: ", curl_easy_strerror(code)));
  }
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  if (status >= 300 && status < 400) {
    return absl::InvalidArgumentError("the URL redirects, which is not followed");
  }
  if (status != 200) {
    return absl::InvalidArgumentError(Concat("the URL's server answered ", status));
  }
  return absl::OkStatus();
}

struct ImageFetcher::Multi {
  ~Multi() {
    if (handle != nullptr) curl_multi_cleanup(handle);
  }
  CURLM* handle = nullptr;
};

absl::StatusOr<std::unique_ptr<ImageFetcher>> ImageFetcher::Start(ImageFetchOptions options) {
  SIGLIP_ASSIGN_OR_RETURN(ImageHosts hosts, ImageHosts::Parse(options.allow));
  if (!options.root_cert.empty() && ::access(options.root_cert.c_str(), R_OK) != 0) {
    return absl::InvalidArgumentError(
        Concat("image URLs' root certificates '", options.root_cert, "': cannot be read"));
  }
  auto multi = std::make_unique<Multi>();
  if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) multi->handle = curl_multi_init();
  if (multi->handle == nullptr) return absl::InternalError("libcurl does not start");
  return std::unique_ptr<ImageFetcher>(
      new ImageFetcher(std::move(options), std::move(hosts), std::move(multi)));
}

ImageFetcher::ImageFetcher(ImageFetchOptions options, ImageHosts hosts,
                           std::unique_ptr<Multi> multi)
    : options_(std::move(options)), hosts_(std::move(hosts)), multi_(std::move(multi)) {
  running_.reserve(static_cast<std::size_t>(options_.max_running));
  thread_ = std::thread([this] { Run(); });
}

ImageFetcher::~ImageFetcher() { End(); }

void ImageFetcher::End() {
  {
    MutexLock lock(mu_);
    ending_ = true;
  }
  curl_multi_wakeup(multi_->handle);
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<Budget::Hold> ImageFetcher::HoldRequest(std::size_t bytes) const {
  Budget::Hold hold;
  if (options_.budget != nullptr &&
      !options_.budget->TryGrow(hold, static_cast<std::int64_t>(bytes))) {
    return OverloadedError("Exceeds the memory for requests whose images are being fetched");
  }
  return hold;
}

void ImageFetcher::Fetch(std::string url, std::function<bool()> is_cancelled, Done done) {
  if (absl::Status allowed = hosts_.Check(url); !allowed.ok()) return done(std::move(allowed));
  auto transfer = std::make_unique<Transfer>();
  transfer->options = &options_;
  transfer->url = std::move(url);
  transfer->is_cancelled = std::move(is_cancelled);
  transfer->done = std::move(done);
  transfer->deadline = std::chrono::steady_clock::now() + options_.timeout;
  {
    MutexLock lock(mu_);
    if (!ending_ && waiting_.size() < options_.max_waiting) {
      waiting_.push_back(std::move(transfer));
    }
  }
  if (transfer != nullptr) {
    return transfer->done(
        absl::UnavailableError("too many images of URLs are being fetched, or the server ends"));
  }
  curl_multi_wakeup(multi_->handle);
}

void ImageFetcher::Run() {
  while (true) {
    {
      MutexLock lock(mu_);
      if (ending_) break;
    }
    int running = 0;
    curl_multi_perform(multi_->handle, &running);
    EndFinished();
    EndCancelled();
    StartWaiting();
    // Returns at once for what has just been started.
    curl_multi_poll(multi_->handle, nullptr, 0, running_.empty() ? kIdleMs : kPollMs, nullptr);
  }
  std::deque<std::unique_ptr<Transfer>> left;
  {
    MutexLock lock(mu_);
    left.swap(waiting_);
  }
  const auto ending = [] { return absl::UnavailableError("the server is shutting down"); };
  for (auto& transfer : running_) {
    curl_multi_remove_handle(multi_->handle, transfer->easy);
    transfer->Finish(ending);
  }
  for (auto& transfer : left) transfer->Finish(ending);
}

void ImageFetcher::StartWaiting() {
  while (running_.size() < static_cast<std::size_t>(options_.max_running)) {
    std::unique_ptr<Transfer> next;
    {
      MutexLock lock(mu_);
      if (waiting_.empty()) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (!next->SetUp() || curl_multi_add_handle(multi_->handle, next->easy) != CURLM_OK) {
      next->Finish(
          [] { return absl::ResourceExhaustedError("no memory to fetch the image of a URL"); });
      continue;
    }
    running_.push_back(std::move(next));
  }
}

void ImageFetcher::EndFinished() {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_->handle, &left)) {
    const CURLcode code = message->data.result;
    CURL* const easy = message->easy_handle;
    const auto found = std::find_if(running_.begin(), running_.end(),
                                    [easy](const auto& t) { return t->easy == easy; });
    const std::unique_ptr<Transfer> transfer = std::move(*found);
    running_.erase(found);
    // `message` goes with it; the handle still knows its answer.
    curl_multi_remove_handle(multi_->handle, easy);
    transfer->Finish([&]() -> absl::StatusOr<FetchedImage> {
      absl::Status status = transfer->StatusOf(code);
      if (!status.ok()) return status;
      return std::move(transfer->image);
    });
  }
}

void ImageFetcher::EndCancelled() {
  const auto gone = std::stable_partition(running_.begin(), running_.end(), [](const auto& t) {
    return !t->is_cancelled || !t->is_cancelled();
  });
  for (auto it = gone; it != running_.end(); ++it) {
    curl_multi_remove_handle(multi_->handle, (*it)->easy);
    (*it)->Finish([] { return absl::CancelledError("Request was cancelled"); });
  }
  running_.erase(gone, running_.end());
}

}  // namespace siglip
