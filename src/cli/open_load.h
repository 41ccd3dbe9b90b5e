#pragma once

// An open-loop load: requests are sent at a fixed rate, whether or not earlier ones were answered,
// as a crowd of clients that know nothing of each other does. One thread, so that the server keeps
// its cores.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/load_client.h"
#include "cli/samples.h"

namespace siglip::cli {

struct OpenLoad {
  LoadTarget target;
  double rate = 0;      // requests a second, evenly spaced
  double seconds = 0;   // then nothing is sent any more, and whoever waits hangs up
  int connections = 0;  // HTTP: at most, one request each at a time; gRPC: that many, shared
};

// Times are from when a request began to be sent to its whole answer, by the client's clock.
struct OpenLoadResult {
  std::size_t offered = 0;
  Samples answers;
  Samples refusals;                       // HTTP 503, gRPC UNAVAILABLE with an answer's time hint
  std::size_t without_retry = 0;          // refusals that did not say when to come again
  std::size_t failures = 0;               // everything else that ended
  std::size_t no_connection = 0;          // not sent: all connections were waiting
  std::size_t abandoned = 0;              // not answered when the time was over
  std::vector<std::size_t> answers_in_s;  // in each second of the run
  Samples lags;                           // how late requests were sent
  absl::Status first_failure;
};

// `contents`: image files or texts, sent in turn; not empty, borrowed.
absl::StatusOr<OpenLoadResult> RunOpenHttp(const OpenLoad& load,
                                           std::span<const std::string> contents);
absl::StatusOr<OpenLoadResult> RunOpenGrpc(const OpenLoad& load,
                                           std::span<const std::string> contents);

// What the two share: when the next request is due, and the counts. Confined to one thread.
class OpenLoadRecorder {
 public:
  explicit OpenLoadRecorder(const OpenLoad& load);

  // Seconds of NowSeconds.
  double NextDue() const;
  double end() const { return end_; }
  bool over(double now) const { return now >= end_; }
  // Index of the request, for choosing its content.
  std::size_t Offer(double now);
  void Answered(double begin);
  void Refused(double begin, bool says_when);
  void Failed(const absl::Status& status);
  void NoConnection() { ++result_.no_connection; }
  OpenLoadResult Finish(std::size_t abandoned);

 private:
  const double rate_;
  const double start_;
  const double end_;
  OpenLoadResult result_;
};

}  // namespace siglip::cli
