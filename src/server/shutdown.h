#pragma once

// SIGTERM, SIGINT and SIGHUP. Made in main before any thread: blocks the signals in all threads to
// come, and ignores SIGPIPE (a client that hangs up must not end the process).
//
// Until BeginServing nothing has been accepted, so SIGTERM or SIGINT ends the process at once with
// exit code 128 + its number, however long the models take to load; SIGHUP means nothing yet.

#include <functional>
#include <thread>

namespace siglip {

// Confined to the main thread.
class ShutdownSignals {
 public:
  ShutdownSignals();
  ~ShutdownSignals();
  ShutdownSignals(const ShutdownSignals&) = delete;
  ShutdownSignals& operator=(const ShutdownSignals&) = delete;

  // Before the first request may be accepted: from now on a signal waits for WaitForFirst.
  void BeginServing();
  // REQUIRES: BeginServing was called.
  // Waits for the first SIGTERM or SIGINT and returns its number; until then SIGHUP calls
  // `on_hangup`. From then on a second one ends the process at once with exit code 128 + its
  // number.
  int WaitForFirst(const std::function<void()>& on_hangup = [] {});
  // Makes WaitForFirst return 0, as if a signal had come. By any thread, once.
  void Wake();

 private:
  int signal_fd_ = -1;
  int wake_fd_ = -1;
  int request_fd_ = -1;
  int loaded_fd_ = -1;
  int first_fd_ = -1;
  std::thread loading_;  // until BeginServing
  std::thread second_;   // from then on; works after WaitForFirst
};

}  // namespace siglip
