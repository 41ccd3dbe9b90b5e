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
  SIGLIP_CHECK(signal_fd_ >= 0 && wake_fd_ >= 0 && request_fd_ >= 0);
}

ShutdownSignals::~ShutdownSignals() {
  if (second_.joinable()) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_fd_, &one, sizeof(one)));
    second_.join();
  }
  ::close(signal_fd_);
  ::close(wake_fd_);
  ::close(request_fd_);
}

void ShutdownSignals::Wake() {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(request_fd_, &one, sizeof(one)));
}

int ShutdownSignals::WaitForFirst(const std::function<void()>& on_hangup) {
  int first = WaitForSignal(signal_fd_, request_fd_);
  for (; first == SIGHUP; first = WaitForSignal(signal_fd_, request_fd_)) on_hangup();
  second_ = std::thread([this] {
    int second = SIGHUP;
    while (second == SIGHUP) second = WaitForSignal(signal_fd_, wake_fd_);
    if (second != 0) std::_Exit(128 + second);
  });
  return first;
}

}  // namespace siglip
