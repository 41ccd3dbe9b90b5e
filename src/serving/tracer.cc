#include "serving/tracer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/clock.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "serving/request.h"

namespace siglip {
namespace {

constexpr std::pair<std::string_view, std::string_view> kDefaults[] = {
    {"trace_level", "OFF"}, {"trace_rate", "1000"}, {"trace_count", "-1"},
    {"log_frequency", "0"}, {"trace_file", ""},     {"trace_mode", "triton"}};

constexpr std::size_t kMaxLevels = 3;  // all but OFF and TENSORS
// Of a wrong value, in its error.
constexpr std::size_t kMaxShownBytes = 100;

std::string DefaultOf(std::string_view key) {
  for (const auto& [name, value] : kDefaults) {
    if (name == key) return std::string(value);
  }
  return {};
}

bool IsSetting(std::string_view key) {
  return std::any_of(std::begin(kDefaults), std::end(kDefaults),
                     [key](const auto& setting) { return setting.first == key; });
}

absl::Status WrongValue(const std::string& key, std::string_view expected,
                        const std::vector<std::string>& got) {
  std::string text;
  for (const std::string& value : got) {
    absl::StrAppend(&text, text.empty() ? "" : ",", value);
    if (text.size() > kMaxShownBytes) break;
  }
  return absl::InvalidArgumentError(absl::StrCat("trace setting '", key, "': expected ",
                                                 std::string(expected), ", got '", LogSafe(text),
                                                 "'"));
}

absl::Status CheckValue(const std::string& key, const std::vector<std::string>& values) {
  if (key == "trace_level") {
    for (const std::string& value : values) {
      if (value == "TENSORS") {
        return absl::UnimplementedError(
            "trace setting 'trace_level': TENSORS is not offered, clients' data is never written");
      }
      if (value != "OFF" && value != "TIMESTAMPS" && value != "MIN" && value != "MAX") {
        return WrongValue(key, "OFF or TIMESTAMPS", values);
      }
    }
    const bool off = std::find(values.begin(), values.end(), "OFF") != values.end();
    if (off && values.size() > 1) {
      return absl::InvalidArgumentError("Expect only one trace level 'OFF' is specified");
    }
    if (values.size() > kMaxLevels) return WrongValue(key, "each level once", values);
    return absl::OkStatus();
  }
  if (values.size() != 1) return WrongValue(key, "one value", values);
  const std::string& value = values[0];
  if (key == "trace_rate") {
    const auto rate = ParseInt<std::uint32_t>(value);
    if (!rate || *rate == 0) return WrongValue(key, "a number from 1 to 2^32-1", values);
  } else if (key == "log_frequency") {
    if (!ParseInt<std::uint32_t>(value)) return WrongValue(key, "a number below 2^32", values);
  } else if (key == "trace_count") {
    const auto count = ParseInt<std::int32_t>(value);
    if (!count || *count < -1) return WrongValue(key, "a number from -1 to 2^31-1", values);
  } else if (key == "trace_mode") {
    if (value != "triton" && value != "chrome") return WrongValue(key, "triton or chrome", values);
  }
  return absl::OkStatus();
}

std::string JsonText(const std::string& text) {
  std::string out;
  AppendJsonString(text, out);
  return out;
}

// The JSON values of one span, separated by commas.
std::string TritonText(const RequestTrace::Span& span) {
  std::string json =
      absl::StrCat("{\"id\":", span.id, ",\"model_name\":", JsonText(span.model_name),
                   ",\"model_version\":", ParseInt<std::int64_t>(span.model_version).value_or(-1));
  if (!span.request_id.empty()) {
    absl::StrAppend(&json, ",\"request_id\":", JsonText(span.request_id));
  }
  if (span.parent_id != 0) absl::StrAppend(&json, ",\"parent_id\":", span.parent_id);
  absl::StrAppend(&json, "},{\"id\":", span.id, ",\"timestamps\":[");
  bool first = true;
  for (const auto& [name, ns] : span.timestamps) {
    absl::StrAppend(&json, first ? "" : ",", "{\"name\":\"", name, "\",\"ns\":", ns, "}");
    first = false;
  }
  return json + "]}";
}

// A bar per hop: from each timestamp to the next, the client's request as the thread's number.
std::string ChromeText(const RequestTrace::Span& span, std::uint64_t root) {
  std::string json;
  const auto& t = span.timestamps;
  for (std::size_t i = 0; i + 1 < t.size(); ++i) {
    char times[80];
    std::snprintf(times, sizeof(times), "\"ts\":%.3f,\"dur\":%.3f",
                  static_cast<double>(t[i].second) * 1e-3,
                  static_cast<double>(t[i + 1].second - t[i].second) * 1e-3);
    absl::StrAppend(&json, json.empty() ? "" : ",", "{\"name\":\"", t[i].first,
                    "\",\"cat\":", JsonText(span.model_name), ",\"ph\":\"X\",", times,
                    ",\"pid\":", root, ",\"tid\":", span.id,
                    ",\"args\":{\"request_id\":", JsonText(span.request_id), "}}");
  }
  return json;
}

// Whether all of it was written; from where the file is.
bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// `path` is a whole JSON array after each call, also after one for which the disk has no room.
bool AppendToArray(const std::string& path, const std::string& values) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return false;
  const absl::Cleanup close = [fd] { ::close(fd); };
  const off_t last = ::lseek(fd, -1, SEEK_END);  // the ]; an empty file has none, and so has a pipe
  if (WriteAll(fd, absl::StrCat(last < 0 ? "[" : ",\n", values, "]"))) return true;
  const bool is_cut = ::ftruncate(fd, std::max<off_t>(0, last)) == 0;
  // The byte lies in a block that the file has had.
  if (is_cut && ::lseek(fd, 0, SEEK_END) > 0) static_cast<void>(WriteAll(fd, "]"));
  return false;
}

}  // namespace

RequestTrace::RequestTrace(std::shared_ptr<Tracer> tracer, std::string model)
    : tracer_(std::move(tracer)), model_(std::move(model)) {}

RequestTrace::~RequestTrace() {
  try {
    Write();
  } catch (const std::bad_alloc&) {
    SIGLIP_LOG_WARN("trace_not_written reason=out_of_memory");
  }
}

void RequestTrace::Write() {
  MutexLock lock(mu_);
  // The door's hops belong to the client's request, which is the one without a parent.
  for (Span& span : spans_) {
    if (span.parent_id != 0) continue;
    span.timestamps.insert(span.timestamps.end(), door_.begin(), door_.end());
  }
  for (Span& span : spans_) {
    std::stable_sort(span.timestamps.begin(), span.timestamps.end(),
                     [](const auto& a, const auto& b) { return a.second < b.second; });
  }
  if (!spans_.empty()) tracer_->Write(model_, spans_);
}

void RequestTrace::Stamp(std::string_view name) { Stamp(name, SteadyNowNs()); }

void RequestTrace::Stamp(std::string_view name, std::int64_t ns) {
  MutexLock lock(mu_);
  door_.emplace_back(name, ns);
}

void RequestTrace::Add(const InferRequest& request) {
  const RequestTimes& times = request.times;
  const std::int64_t done_ns = times.done_ns != 0 ? times.done_ns : SteadyNowNs();
  Span span{.id = request.trace_id,
            .parent_id = request.trace_parent_id,
            .model_name = request.model_name,
            .model_version = request.model_version,
            .request_id = request.id,
            .timestamps = {}};
  // Of an ensemble, and of what failed before, there is no computing, neither its start nor its
  // end.
  const bool computed = times.infer_end_ns != 0;
  const std::pair<const char*, std::int64_t> hops[] = {
      {"REQUEST_START", times.arrival_ns},
      {"QUEUE_START", times.queue_start_ns},
      {"COMPUTE_START", computed ? times.compute_start_ns : 0},
      {"COMPUTE_INPUT_END", times.infer_start_ns},
      {"COMPUTE_OUTPUT_START", times.infer_end_ns},
      {"COMPUTE_END", computed ? done_ns : 0},
      {"REQUEST_END", done_ns}};
  for (const auto& [name, ns] : hops) {
    if (ns != 0) span.timestamps.emplace_back(name, ns);
  }
  // Of the client's request: the door has its answer now. What a door refused, no model answered.
  if (request.at_model && span.parent_id == 0) {
    span.timestamps.emplace_back("INFER_RESPONSE_COMPLETE", SteadyNowNs());
  }
  MutexLock lock(mu_);
  spans_.push_back(std::move(span));
}

std::uint64_t RequestTrace::NextId() {
  return tracer_->next_id_.fetch_add(1, std::memory_order_relaxed);
}

std::string Tracer::Value(const std::string& model, const std::string& key) const {
  const auto own = models_.find(model);
  if (own != models_.end() && own->second.values.contains(key)) {
    return own->second.values.at(key).at(0);
  }
  for (const TraceSettingsMap* common : {&global_.values, &configured_}) {
    if (const auto found = common->find(key); found != common->end()) return found->second.at(0);
  }
  return DefaultOf(key);
}

TraceSettingsMap Tracer::Get(const std::string& model) const {
  MutexLock lock(mu_);
  TraceSettingsMap all;
  for (const auto& [key, value] : kDefaults) all[std::string(key)] = {std::string(value)};
  for (const TraceSettingsMap* common : {&configured_, &global_.values}) {
    for (const auto& [key, value] : *common) all[key] = value;
  }
  if (const auto own = models_.find(model); own != models_.end()) {
    for (const auto& [key, value] : own->second.values) all[key] = value;
  }
  return all;
}

absl::Status Tracer::Update(const std::string& model, const TraceSettingsMap& changes) {
  for (const auto& [key, values] : changes) {
    if (key == "trace_file") {
      return absl::UnimplementedError(
          "trace file location can not be updated through network protocol");
    }
  }
  SIGLIP_RETURN_IF_ERROR(Check(changes));
  MutexLock lock(mu_);
  const auto mode = changes.find("trace_mode");
  if (mode != changes.end() && !mode->second.empty() &&
      mode->second[0] != Value(model, "trace_mode")) {
    return absl::UnimplementedError("trace mode can not be updated through network protocol");
  }
  Settings& settings = model.empty() ? global_ : models_[model];
  const TraceSettingsMap before = settings.values;
  for (const auto& [key, values] : changes) {
    if (key == "trace_mode") continue;
    if (values.empty()) {
      settings.values.erase(key);
    } else {
      settings.values[key] = values;
    }
  }
  if (TracesWithoutFile(model)) {
    settings.values = before;
    return absl::InvalidArgumentError(
        "Attempting to set invalid trace setting :trace file name is not given");
  }
  StartCounting(model, settings);
  return absl::OkStatus();
}

absl::Status Tracer::Configure(const TraceSettingsMap& settings) {
  SIGLIP_RETURN_IF_ERROR(Check(settings));
  MutexLock lock(mu_);
  configured_ = settings;
  std::erase_if(configured_, [](const auto& setting) { return setting.second.empty(); });
  StartCounting("", global_);
  return absl::OkStatus();
}

absl::Status Tracer::Check(const TraceSettingsMap& changes) {
  for (const auto& [key, values] : changes) {
    if (!IsSetting(key)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown trace setting '", LogSafe(key), "'"));
    }
    if (!values.empty()) SIGLIP_RETURN_IF_ERROR(CheckValue(key, values));
  }
  return absl::OkStatus();
}

bool Tracer::TracesWithoutFile(const std::string& model) const {
  return Value(model, "trace_level") != "OFF" && Value(model, "trace_file").empty();
}

// A change for all counts anew for models too, but for those with a count of their own.
void Tracer::StartCounting(const std::string& model, Settings& settings) {
  settings.seen = 0;
  settings.left = ParseInt<std::int64_t>(Value(model, "trace_count")).value_or(-1);
  bool any = Value("", "trace_level") != "OFF";
  for (auto& [name, own] : models_) {
    any = any || Value(name, "trace_level") != "OFF";
    if (model.empty() && !own.values.contains("trace_count")) own.left = settings.left;
  }
  any_.store(any, std::memory_order_relaxed);
}

// Counters are the model's only where it has settings of its own.
Tracer::Settings& Tracer::Of(const std::string& model) {
  const auto own = models_.find(model);
  return own != models_.end() && !own->second.values.empty() ? own->second : global_;
}

std::shared_ptr<RequestTrace> Tracer::Sample(const std::string& model) {
  if (!any_.load(std::memory_order_relaxed)) return nullptr;
  MutexLock lock(mu_);
  if (Value(model, "trace_level") == "OFF" || Value(model, "trace_file").empty()) return nullptr;
  Settings& settings = Of(model);
  const auto rate = ParseInt<std::uint64_t>(Value(model, "trace_rate")).value_or(1000);
  if (++settings.seen % rate != 0 || settings.left == 0) return nullptr;
  if (settings.left > 0) --settings.left;
  return std::make_shared<RequestTrace>(shared_from_this(), model);
}

Tracer::Place Tracer::NextPlace(const std::string& model) {
  MutexLock lock(mu_);
  Place place{.path = Value(model, "trace_file"), .chrome = Value(model, "trace_mode") == "chrome"};
  Settings& settings = Of(model);
  const auto frequency = ParseInt<std::uint64_t>(Value(model, "log_frequency")).value_or(0);
  if (frequency == 0) return place;
  if (settings.in_file == frequency) {
    ++settings.file_index;
    settings.in_file = 0;
  }
  ++settings.in_file;
  absl::StrAppend(&place.path, ".", settings.file_index);
  return place;
}

void Tracer::Write(const std::string& model, const std::vector<RequestTrace::Span>& spans) {
  const Place place = NextPlace(model);
  std::uint64_t root = 0;
  for (const RequestTrace::Span& span : spans) {
    if (span.parent_id == 0) root = span.id;
  }
  std::string values;
  for (const RequestTrace::Span& span : spans) {
    absl::StrAppend(&values, values.empty() ? "" : ",",
                    place.chrome ? ChromeText(span, root) : TritonText(span));
  }
  MutexLock lock(file_mu_);
  if (!AppendToArray(place.path, values)) {
    SIGLIP_LOG_WARN("trace_not_written file={}", LogSafe(place.path));
  }
}

}  // namespace siglip
