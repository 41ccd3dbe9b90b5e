#pragma once

// A progress bar on stderr: count, rate, remaining time. Silent unless stderr is a terminal.

#include <chrono>
#include <cstddef>
#include <string>

namespace siglip::cli {

// Confined to one thread.
class Progress {
 public:
  // `what` is what is counted: "images".
  Progress(std::string what, std::size_t total, bool enabled);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Advance(std::size_t count = 1);

 private:
  void Draw();

  const std::string what_;
  const std::size_t total_;
  const bool enabled_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_draw_;
  std::size_t done_ = 0;
};

// True if stderr is a terminal.
bool StderrIsTerminal();

}  // namespace siglip::cli
