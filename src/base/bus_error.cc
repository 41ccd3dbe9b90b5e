#include "base/bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <string_view>

namespace siglip {
namespace {

// Everything below runs in a signal handler: no allocation, no locks, system calls alone.

void Say(std::string_view text) {
  static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
}

// "begin-end perms offset device inode   path". Source: proc(5), /proc/pid/maps.
bool Contains(std::string_view line, std::uintptr_t address) {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  const char* last = line.data() + line.size();
  const auto [dash, bad] = std::from_chars(line.data(), last, begin, 16);
  if (bad != std::errc() || dash == last) return false;
  if (std::from_chars(dash + 1, last, end, 16).ec != std::errc()) return false;
  return begin <= address && address < end;
}

// Says the path of the mapping that has `address`, if there is one.
void SayMappedFile(std::uintptr_t address) {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  std::array<char, 8192> buffer;  // a path has at most 4096
  std::size_t filled = 0;
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data() + filled, buffer.size() - filled);
    if (n <= 0) break;
    filled += static_cast<std::size_t>(n);
    std::string_view left(buffer.data(), filled);
    for (std::size_t end; (end = left.find('\n')) != std::string_view::npos;) {
      const std::string_view line = left.substr(0, end);
      left.remove_prefix(end + 1);
      if (!Contains(line, address)) continue;
      const std::size_t path = line.find('/');
      if (path != std::string_view::npos) Say(line.substr(path));
      ::close(fd);
      return;
    }
    if (left.size() == buffer.size()) break;
    for (std::size_t i = 0; i < left.size(); ++i) buffer[i] = left[i];
    filled = left.size();
  }
  ::close(fd);
}

// Whether a thread is speaking; a handler has no other place to look.
std::atomic_flag speaking = ATOMIC_FLAG_INIT;

void OnBusError(int, siginfo_t* info, void*) {
  // Threads that share the file's work fail at the same time: the first speaks for all.
  while (speaking.test_and_set()) ::pause();
  Say("error: a mapped file was cut short while it was in use, or its disk failed (SIGBUS): ");
  SayMappedFile(reinterpret_cast<std::uintptr_t>(info->si_addr));
  Say("\nfiles in use may be renamed, removed and replaced, but not changed in place\n");
  // Returning repeats the read, now with the default action.
  std::signal(SIGBUS, SIG_DFL);
}

}  // namespace

void ReportBusErrors() {
  struct sigaction action {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace siglip
