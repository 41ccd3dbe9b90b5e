#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace siglip::cli {
namespace {

// Faster would only flicker.
constexpr std::chrono::milliseconds kRedrawInterval{100};
// In a log: some hundred lines a day.
constexpr std::chrono::seconds kLineInterval{60};
constexpr std::uint64_t kBarColumns = 30;

}  // namespace

bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }
bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }

Progress::Progress(Options options)
    : options_(std::move(options)),
      terminal_(StderrIsTerminal()),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {}

Progress::~Progress() {
  if (options_.quiet || !terminal_ || advanced_ == 0) return;
  Draw();
  std::fputc('\n', stderr);
}

void Progress::Advance(std::uint64_t count) {
  advanced_ += count;
  if (options_.quiet) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_draw_ < (terminal_ ? kRedrawInterval : kLineInterval)) return;
  last_draw_ = now;
  Draw();
}

std::string Progress::Text() const {
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double rate = elapsed_s > 0 ? static_cast<double>(advanced_) / elapsed_s : 0;
  const std::uint64_t done = options_.done + advanced_;
  if (options_.total == 0) return absl::StrFormat("%d %s  %.1f/s", done, options_.what, rate);
  const std::uint64_t left = options_.total - std::min(done, options_.total);
  const auto seconds = static_cast<std::uint64_t>(rate > 0 ? static_cast<double>(left) / rate : 0);
  return absl::StrFormat("%d/%d %s  %.1f/s  %d:%02d:%02d left", done, options_.total, options_.what,
                         rate, seconds / 3600, seconds / 60 % 60, seconds % 60);
}

void Progress::Draw() {
  std::string bar;
  if (options_.total > 0) {
    const std::uint64_t done = std::min(options_.done + advanced_, options_.total);
    const std::size_t filled = static_cast<std::size_t>(done * kBarColumns / options_.total);
    bar = absl::StrCat("[", std::string(filled, '#'), std::string(kBarColumns - filled, '.'), "] ");
  }
  const std::string line = terminal_ ? absl::StrCat("\r", bar, Text(), " ") : Text() + "\n";
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace siglip::cli
