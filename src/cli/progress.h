#pragma once

// Progress on stderr: count, rate, remaining time. A bar on a terminal; elsewhere a line a minute,
// for the logs of long jobs.

#include <chrono>
#include <cstdint>
#include <string>

namespace siglip::cli {

// Confined to one thread.
class Progress {
 public:
  struct Options {
    std::string what;         // what is counted: "items"
    std::uint64_t total = 0;  // 0 = not known
    std::uint64_t done = 0;   // by an earlier run
    bool quiet = false;
  };
  explicit Progress(Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Advance(std::uint64_t count = 1);

 private:
  std::string Text() const;
  void Draw();

  const Options options_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_draw_;
  std::uint64_t advanced_ = 0;  // by this run
};

// True if the stream is a terminal.
bool StderrIsTerminal();
bool StdoutIsTerminal();

}  // namespace siglip::cli
