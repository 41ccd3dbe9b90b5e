#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace siglip::cli {
namespace {

// Faster would only flicker.
constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr int kBarColumns = 30;

}  // namespace

bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

Progress::Progress(std::string what, std::size_t total, bool enabled)
    : what_(std::move(what)),
      total_(total),
      enabled_(enabled && total > 0),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {}

Progress::~Progress() {
  if (!enabled_) return;
  Draw();
  std::fputc('\n', stderr);
}

void Progress::Advance(std::size_t count) {
  done_ += count;
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_draw_ < kRedrawInterval) return;
  last_draw_ = now;
  Draw();
}

void Progress::Draw() {
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double rate = elapsed_s > 0 ? static_cast<double>(done_) / elapsed_s : 0;
  const double remaining_s =
      rate > 0 ? static_cast<double>(total_ - std::min(done_, total_)) / rate : 0;
  const int filled = static_cast<int>(done_ * kBarColumns / total_);
  const std::string bar =
      std::string(static_cast<std::size_t>(std::clamp(filled, 0, kBarColumns)), '#') +
      std::string(static_cast<std::size_t>(kBarColumns - std::clamp(filled, 0, kBarColumns)), '.');
  const int seconds = static_cast<int>(remaining_s);
  std::fprintf(stderr, "\r[%s] %zu/%zu %s  %.1f/s  %d:%02d:%02d left ", bar.c_str(), done_, total_,
               what_.c_str(), rate, seconds / 3600, seconds / 60 % 60, seconds % 60);
  std::fflush(stderr);
}

}  // namespace siglip::cli
