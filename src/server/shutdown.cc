#include "server/shutdown.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>

#include "base/check.h"

namespace siglip {
namespace {

// The number of a pending signal; 0 if `wake_fd` was written instead.
int WaitForSignal(int signal_fd, int wake_fd) {
  pollfd fds[] = {{signal_fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
  for (;;) {
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return 0;
    if ((fds[1].revents & POLLIN) != 0) return 0;
    signalfd_siginfo info;
    if ((fds[0].revents & POLLIN) != 0 && ::read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
      return static_cast<int>(info.ssi_signo);
    }
  }
}

// Ends the process at the next SIGTERM or SIGINT, unless `wake_fd` is written first.
void EndAtSignal(int signal_fd, int wake_fd) {
  int signal = SIGHUP;
  while (signal == SIGHUP) signal = WaitForSignal(signal_fd, wake_fd);
  if (signal != 0) std::_Exit(128 + signal);
}

// Whether it is `a` that is written, and not `b`.
bool WaitForFirstOf(int a, int b) {
  pollfd fds[] = {{a, POLLIN, 0}, {b, POLLIN, 0}};
  while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
  }
  return (fds[1].revents & POLLIN) == 0;
}

void Signal(int event_fd) {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(event_fd, &one, sizeof(one)));
}

void Stop(std::thread& thread, int event_fd) {
  if (!thread.joinable()) return;
  Signal(event_fd);
  thread.join();
}

}  // namespace

ShutdownSignals::ShutdownSignals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  SIGLIP_CHECK(pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0);
  signal_fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC);
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC);
  request_fd_ = ::eventfd(0, EFD_CLOEXEC);
  loaded_fd_ = ::eventfd(0, EFD_CLOEXEC);
  first_fd_ = ::eventfd(0, EFD_CLOEXEC);
  SIGLIP_CHECK(signal_fd_ >= 0 && wake_fd_ >= 0 && request_fd_ >= 0 && loaded_fd_ >= 0 &&
               first_fd_ >= 0);
  loading_ = std::thread([this] { EndAtSignal(signal_fd_, loaded_fd_); });
}

ShutdownSignals::~ShutdownSignals() {
  Stop(loading_, loaded_fd_);
  Stop(second_, wake_fd_);
  ::close(signal_fd_);
  ::close(wake_fd_);
  ::close(request_fd_);
  ::close(loaded_fd_);
  ::close(first_fd_);
}

void ShutdownSignals::Wake() { Signal(request_fd_); }

void ShutdownSignals::BeginServing() {
  Stop(loading_, loaded_fd_);
  // Now, and not when it is needed: there may be no memory for a thread then.
  second_ = std::thread([this] {
    if (WaitForFirstOf(first_fd_, wake_fd_)) EndAtSignal(signal_fd_, wake_fd_);
  });
}

int ShutdownSignals::WaitForFirst(const std::function<void()>& on_hangup) {
  int first = WaitForSignal(signal_fd_, request_fd_);
  for (; first == SIGHUP; first = WaitForSignal(signal_fd_, request_fd_)) on_hangup();
  Signal(first_fd_);
  return first;
}

}  // namespace siglip
