#pragma once

// Timestamps of a sampled request at every hop, written as Triton's trace file or as Chrome's
// ("chrome://tracing", Perfetto). Off costs one load of an atomic per request.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace siglip {

struct InferRequest;
class Tracer;

// What a request and all that is sent on its behalf leave behind. Written when the last holder lets
// it go. Thread-safe.
class RequestTrace {
 public:
  RequestTrace(std::shared_ptr<Tracer> tracer, std::string model);
  ~RequestTrace();
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  // A hop of the door ("HTTP_RECV_START"), steady-clock nanoseconds; `now` without a time.
  void Stamp(std::string_view name);
  void Stamp(std::string_view name, std::int64_t ns);
  // The times of an answered request, the client's or one within it.
  void Add(const InferRequest& request);

  std::uint64_t NextId();

  struct Span {
    std::uint64_t id = 0;
    std::uint64_t parent_id = 0;  // 0 = the client's request
    std::string model_name;
    std::string model_version;
    std::string request_id;
    std::vector<std::pair<std::string, std::int64_t>> timestamps;
  };

 private:
  void Write();

  // A request may let its trace go after its answer, when the doors are gone.
  const std::shared_ptr<Tracer> tracer_;
  const std::string model_;
  Mutex mu_;
  std::vector<Span> spans_ SIGLIP_GUARDED_BY(mu_);
  std::vector<std::pair<std::string, std::int64_t>> door_ SIGLIP_GUARDED_BY(mu_);
};

// Settings by Triton's names, each a list of texts: trace_level (OFF, TIMESTAMPS), trace_rate (one
// request in so many), trace_count (so many more; -1 = no end), log_frequency (a new file after so
// many; 0 = never), trace_file, trace_mode (triton, chrome).
using TraceSettingsMap = std::map<std::string, std::vector<std::string>>;

// Thread-safe. Shared with the traces.
class Tracer : public std::enable_shared_from_this<Tracer> {
 public:
  static std::shared_ptr<Tracer> Create() { return std::shared_ptr<Tracer>(new Tracer); }

  // Of all models, or of one. A model has what is set for all until it is set for it.
  TraceSettingsMap Get(const std::string& model) const;
  // From a client. An empty list clears a setting: a model then has what is set for all, all have
  // what the command line said. All of it, or an error and nothing: Unimplemented for trace_file
  // and trace_mode, InvalidArgument for other names and values, and for a level without a file.
  absl::Status Update(const std::string& model, const TraceSettingsMap& changes);
  // From the command line: file and mode too.
  absl::Status Configure(const TraceSettingsMap& settings);

  // Null if this request is not traced.
  std::shared_ptr<RequestTrace> Sample(const std::string& model);

 private:
  friend class RequestTrace;
  struct Settings {
    TraceSettingsMap values;
    std::uint64_t seen = 0;     // requests since the last change
    std::int64_t left = -1;     // of trace_count
    std::uint64_t in_file = 0;  // of log_frequency
    std::uint64_t file_index = 0;
  };
  struct Place {
    std::string path;
    bool chrome = false;
  };
  Tracer() = default;
  static absl::Status Check(const TraceSettingsMap& changes);
  Settings& Of(const std::string& model) SIGLIP_REQUIRES(mu_);
  std::string Value(const std::string& model, const std::string& key) const SIGLIP_REQUIRES(mu_);
  bool TracesWithoutFile(const std::string& model) const SIGLIP_REQUIRES(mu_);
  void StartCounting(const std::string& model, Settings& settings) SIGLIP_REQUIRES(mu_);
  // Where the next trace of `model` goes, which is counted.
  Place NextPlace(const std::string& model);
  void Write(const std::string& model, const std::vector<RequestTrace::Span>& spans);

  std::atomic<bool> any_{false};  // whether any level is on; a late reader misses one request
  std::atomic<std::uint64_t> next_id_{1};
  Mutex file_mu_;  // held while a file is appended to; no request waits for it to be sampled
  mutable Mutex mu_;
  TraceSettingsMap configured_ SIGLIP_GUARDED_BY(mu_);  // by the command line
  Settings global_ SIGLIP_GUARDED_BY(mu_);
  std::map<std::string, Settings> models_ SIGLIP_GUARDED_BY(mu_);  // own settings, or counters
};

}  // namespace siglip
