// `siglip bench server`: a load generator, the same requests that the contract's clients send.

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "cli/bench.h"
#include "cli/choices.h"
#include "cli/image_files.h"
#include "cli/load_client.h"
#include "cli/open_load.h"
#include "cli/report.h"

namespace siglip::cli {
namespace {

struct BenchServerFlags {
  std::vector<std::string> paths;
  std::vector<std::string> texts;
  std::string url = "localhost:8001";
  HostPort address;  // of `url`
  std::string protocol = "grpc";
  std::string model_name;
  int concurrency = 60;
  double seconds = 10;
  double rate = 0;
  int connections = 0;
  int server_pid = 0;
  bool json = false;

  LoadTarget target() const {
    return {.address = address,
            .model_name = model_name,
            .input_name = texts.empty() ? "INPUT_IMAGE" : "INPUT_TEXT"};
  }
  const char* unit() const { return texts.empty() ? "image" : "text"; }
};

// What all clients of a run saw.
struct LoadResult {
  Samples latencies;
  std::size_t failures = 0;
  absl::Status first_failure;
  double wall_s = 0;
  std::optional<double> server_cpu_s;  // with --server-pid
};

// User plus system seconds of another process. Source: proc(5), fields 14 and 15 of /proc/PID/stat.
absl::StatusOr<double> CpuSecondsOf(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) {
    return absl::NotFoundError(absl::StrCat("process ", pid, ": not found"));
  }
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

class LoadRun {
 public:
  LoadRun(const BenchServerFlags& flags, const std::vector<std::string>& contents)
      : flags_(flags), contents_(contents) {}

  absl::StatusOr<LoadResult> Run() {
    std::vector<std::unique_ptr<LoadClient>> clients;
    for (int i = 0; i < flags_.concurrency; ++i) {
      SIGLIP_ASSIGN_OR_RETURN(
          std::unique_ptr<LoadClient> client,
          (flags_.protocol == "http" ? ConnectHttp : ConnectGrpc)(flags_.target()));
      clients.push_back(std::move(client));
    }
    // Not counted: fills caches, grows buffers.
    SIGLIP_RETURN_IF_ERROR(clients[0]->Infer(contents_[0], nullptr));
    const double start = NowSeconds();
    deadline_ = start + flags_.seconds;
    double cpu_start = 0;
    if (flags_.server_pid != 0) {
      SIGLIP_ASSIGN_OR_RETURN(cpu_start, CpuSecondsOf(flags_.server_pid));
    }
    std::vector<std::thread> threads;
    const absl::Status started = AddThreads(threads, static_cast<int>(clients.size()), [&](int i) {
      Drive(*clients[static_cast<std::size_t>(i)]);
    });
    for (std::thread& thread : threads) thread.join();
    SIGLIP_RETURN_IF_ERROR(started);
    MutexLock lock(mu_);
    result_.wall_s = NowSeconds() - start;
    if (flags_.server_pid != 0) {
      SIGLIP_ASSIGN_OR_RETURN(const double cpu_end, CpuSecondsOf(flags_.server_pid));
      result_.server_cpu_s = cpu_end - cpu_start;
    }
    return result_;
  }

 private:
  void Drive(LoadClient& client) {
    std::vector<double> seconds;
    std::size_t failures = 0;
    absl::Status first_failure;
    for (double now = NowSeconds(); now < deadline_;) {
      const absl::Status status = client.Infer(contents_[next_++ % contents_.size()], nullptr);
      const double end = NowSeconds();
      if (status.ok()) {
        seconds.push_back(end - now);
      } else if (++failures == 1) {
        first_failure = status;
      }
      now = end;
    }
    MutexLock lock(mu_);
    result_.latencies.seconds.insert(result_.latencies.seconds.end(), seconds.begin(),
                                     seconds.end());
    result_.failures += failures;
    if (result_.first_failure.ok()) result_.first_failure = first_failure;
  }

  const BenchServerFlags& flags_;
  const std::vector<std::string>& contents_;
  double deadline_ = 0;  // written before the clients' threads start
  std::atomic<std::size_t> next_{0};
  Mutex mu_;
  LoadResult result_ SIGLIP_GUARDED_BY(mu_);
};

void Print(const BenchServerFlags& flags, const LoadResult& result) {
  const double count = static_cast<double>(result.latencies.seconds.size());
  std::string cpu;
  if (flags.json) {
    cpu = result.server_cpu_s ? absl::StrFormat("%.6g", *result.server_cpu_s / count) : "null";
    cpu = absl::StrFormat(",\"server_cpu_s_per_%s\":%s", flags.unit(), cpu);
  } else if (result.server_cpu_s) {
    cpu = absl::StrFormat("; server CPU s/%s: %.6g", flags.unit(), *result.server_cpu_s / count);
  }
  const char* format =
      flags.json ? "{\"protocol\":\"%s\",\"model\":\"%s\",\"concurrency\":%d,\"answers\":%.0f,"
                   "\"failures\":%zu,\"%ss_per_s\":%.2f,\"p50_ms\":%.3f,\"p90_ms\":%.3f,"
                   "\"p99_ms\":%.3f%s}\n"
                 : "%s %s, concurrency %d: %.0f answers, %zu failures, %ss/s: %.1f\n"
                   "  latency p50 %.2f ms, p90 %.2f ms, p99 %.2f ms%s\n";
  std::printf(format, flags.protocol.c_str(), flags.model_name.c_str(), flags.concurrency, count,
              result.failures, flags.unit(), count / result.wall_s, 1e3 * result.latencies.Median(),
              1e3 * result.latencies.Quantile(0.9), 1e3 * result.latencies.Quantile(0.99),
              cpu.c_str());
}

double Milliseconds(const Samples& samples, double p) {
  return samples.seconds.empty() ? 0 : 1e3 * samples.Quantile(p);
}

void PrintOpenLoad(const BenchServerFlags& flags, const OpenLoadResult& result) {
  if (!flags.json) {
    std::printf(
        "%s %s, %.1f requests/s offered for %.0f s: %zu answers (%.1f/s), %zu refusals, %zu "
        "failures, "
        "%zu without connection, %zu abandoned\n"
        "  answers p50 %.2f ms, p99 %.2f ms; refusals p50 %.2f ms, p99 %.2f ms, %zu without a time "
        "to retry; sent p99 %.2f ms late\n",
        flags.protocol.c_str(), flags.model_name.c_str(), flags.rate, flags.seconds,
        result.answers.seconds.size(),
        static_cast<double>(result.answers.seconds.size()) / flags.seconds,
        result.refusals.seconds.size(), result.failures, result.no_connection, result.abandoned,
        Milliseconds(result.answers, 0.5), Milliseconds(result.answers, 0.99),
        Milliseconds(result.refusals, 0.5), Milliseconds(result.refusals, 0.99),
        result.without_retry, Milliseconds(result.lags, 0.99));
    return;
  }
  std::printf(
      "{\"protocol\":\"%s\",\"model\":\"%s\",\"rate\":%.3f,\"seconds\":%.3f,\"offered\":%zu,"
      "\"answers\":%zu,\"refusals\":%zu,\"failures\":%zu,\"no_connection\":%zu,\"abandoned\":%zu,"
      "\"without_retry\":%zu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"refusal_p50_ms\":%.3f,"
      "\"refusal_p99_ms\":%.3f,\"lag_p99_ms\":%.3f,\"cpu_s\":%.3f,\"answers_in_s\":[%s]}\n",
      flags.protocol.c_str(), flags.model_name.c_str(), flags.rate, flags.seconds, result.offered,
      result.answers.seconds.size(), result.refusals.seconds.size(), result.failures,
      result.no_connection, result.abandoned, result.without_retry,
      Milliseconds(result.answers, 0.5), Milliseconds(result.answers, 0.99),
      Milliseconds(result.refusals, 0.5), Milliseconds(result.refusals, 0.99),
      Milliseconds(result.lags, 0.99), ProcessCpuSeconds(),
      absl::StrJoin(result.answers_in_s, ",").c_str());
}

// Refusals are what an overload is expected to bring: only failures are.
absl::Status BenchOpenLoad(const BenchServerFlags& flags,
                           const std::vector<std::string>& contents) {
  const bool http = flags.protocol == "http";
  const OpenLoad load{.target = flags.target(),
                      .rate = flags.rate,
                      .seconds = flags.seconds,
                      .connections = flags.connections > 0 ? flags.connections
                                     : http                ? 4096
                                                           : 8};
  SIGLIP_ASSIGN_OR_RETURN(const OpenLoadResult result,
                          (http ? RunOpenHttp : RunOpenGrpc)(load, contents));
  PrintOpenLoad(flags, result);
  if (result.failures == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat(
      result.failures, " requests failed; the first: ", result.first_failure.message()));
}

absl::StatusOr<std::vector<std::string>> Contents(const BenchServerFlags& flags) {
  if (!flags.texts.empty()) return flags.texts;
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandImagePaths(flags.paths));
  if (files.empty()) return absl::InvalidArgumentError("no image files found");
  std::vector<std::string> images;
  for (const std::string& path : files) {
    SIGLIP_ASSIGN_OR_RETURN(std::string bytes,
                            ReadFile(path, std::numeric_limits<std::uint32_t>::max()));
    images.push_back(std::move(bytes));
  }
  return images;
}

absl::Status BenchServer(BenchServerFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(flags.address, Usage(ParseHostPort(flags.url)));
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> contents, Contents(flags));
  if (flags.rate > 0) return BenchOpenLoad(flags, contents);
  SIGLIP_ASSIGN_OR_RETURN(const LoadResult result, LoadRun(flags, contents).Run());
  if (result.latencies.seconds.empty()) {
    if (result.failures == 0) return absl::UnknownError("no request was answered in time");
    return absl::UnknownError(
        absl::StrCat("no request succeeded; the first failure: ", result.first_failure.message()));
  }
  Print(flags, result);
  if (result.failures == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat(
      result.failures, " requests failed; the first: ", result.first_failure.message()));
}

}  // namespace

void AddBenchServerCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchServerFlags>();
  CLI::App* command = bench.add_subcommand("server", "A running server, with many clients at once");
  CLI::Option* paths =
      command->add_option("paths", flags->paths, "Image files and folders to send");
  command->add_option("--text", flags->texts, "A text to send instead; may be repeated")
      ->excludes(paths)
      ->allow_extra_args(false);
  command
      ->add_option(
          "--url", flags->url,
          "HOST:PORT of the server; IPv6 with brackets or without. TLS and API keys are not spoken")
      ->type_name("SERVER")
      ->capture_default_str();
  command->add_option("--protocol", flags->protocol, "grpc or http")
      ->check(CLI::IsMember({"grpc", "http"}))
      ->capture_default_str();
  command
      ->add_option("--model-name", flags->model_name,
                   "A deployment whose input is INPUT_IMAGE, or with --text INPUT_TEXT "
                   "(embed_image, embed_text)")
      ->type_name("NAME");
  command->add_option("--concurrency", flags->concurrency, "Clients, each with its own connection")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command->add_option("--seconds", flags->seconds, "How long, in seconds")
      ->check(
          [](const std::string& text) -> std::string {
            double seconds = 0;
            if (absl::SimpleAtod(text, &seconds) && seconds > 0 && seconds <= 1e6) return {};
            return "expected more than 0 and at most 1000000, got " + text;
          },
          "")
      ->capture_default_str();
  command
      ->add_option("--rate", flags->rate,
                   "Requests a second, sent whether or not earlier ones were answered; "
                   "--concurrency does not count")
      ->check(AtLeast(0));
  command
      ->add_option(
          "--connections", flags->connections,
          "With --rate. http: at most, one request each at a time (4096); grpc: that many, "
          "shared (8)")
      ->check(AtLeast(0));
  command->add_option("--server-pid", flags->server_pid,
                      "Process on this machine whose CPU seconds per image are reported");
  command->add_flag("--json", flags->json, "One JSON object");
  command->footer("Exit code 1 if any request failed.");
  command->callback([flags, &run] {
    if (flags->paths.empty() && flags->texts.empty()) throw CLI::RequiredError("paths or --text");
    if (flags->model_name.empty()) {
      flags->model_name = flags->texts.empty() ? "embed_image" : "embed_text";
    }
    run = [flags] {
      const absl::Status status = BenchServer(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
