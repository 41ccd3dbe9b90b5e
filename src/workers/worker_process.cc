#include "workers/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "workers/decode_worker.h"

namespace siglip {
namespace {

// A client that hung up is noticed within this time.
constexpr std::int64_t kCancelPeriodNs = 100'000'000;
constexpr std::int64_t kNsPerMs = 1'000'000;
// Ctrl-Z and fg stop a whole terminal's processes, and let them go on one after the other.
constexpr std::int64_t kStoppedNs = 1'000'000'000;

absl::Status CannotStart(const char* what, int error) {
  return absl::UnavailableError(absl::StrCat("decode worker: ", what, ": ", std::strerror(error)));
}

// The child's descriptors are put into their places one after the other, so none of them may lie in
// the place of another before.
constexpr int kAbovePlaces = kWorkerMemory + 1;

class SpawnPlan {
 public:
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  int Prepare(int socket, int memory) {
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    int error = posix_spawnattr_setsigmask(&attributes_, &none);
    if (error == 0) error = posix_spawnattr_setsigdefault(&attributes_, &all);
    if (error == 0) {
      error =
          posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    }
    for (const int place : {STDIN_FILENO, STDOUT_FILENO}) {
      if (error == 0) {
        error = posix_spawn_file_actions_addopen(&actions_, place, "/dev/null", O_RDWR, 0);
      }
    }
    if (error == 0) error = posix_spawn_file_actions_adddup2(&actions_, socket, kWorkerSocket);
    if (error == 0) error = posix_spawn_file_actions_adddup2(&actions_, memory, kWorkerMemory);
    if (error == 0) error = posix_spawn_file_actions_addclosefrom_np(&actions_, kAbovePlaces);
    return error;
  }

  int Spawn(const std::string& program, pid_t& pid) {
    std::string name = "siglip";
    std::string argument(kDecodeWorkerArgument);
    char* const arguments[] = {name.data(), argument.data(), nullptr};
    char* const environment[] = {nullptr};
    return posix_spawn(&pid, program.c_str(), &actions_, &attributes_, arguments, environment);
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::string EndText(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("signal ", WTERMSIG(status));
  return absl::StrCat("exit code ", WEXITSTATUS(status));
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(const std::string& program,
                                                                    int memory) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return CannotStart("socketpair", errno);
  }
  const int child_socket = fcntl(pair[1], F_DUPFD_CLOEXEC, kAbovePlaces);
  const int child_memory = fcntl(memory, F_DUPFD_CLOEXEC, kAbovePlaces);
  int error = child_socket < 0 || child_memory < 0 ? errno : 0;
  SpawnPlan plan;
  pid_t pid = 0;
  if (error == 0) error = plan.Prepare(child_socket, child_memory);
  if (error == 0) error = plan.Spawn(program, pid);
  for (const int descriptor : {pair[1], child_socket, child_memory}) {
    if (descriptor >= 0) close(descriptor);
  }
  if (error != 0) {
    close(pair[0]);
    return CannotStart("posix_spawn", error);
  }
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(pid, pair[0]));
}

WorkerProcess::~WorkerProcess() {
  if (pid_ != 0) Kill();
  close(socket_);
}

bool WorkerProcess::Send(const Job& job) {
  ssize_t sent = -1;
  do {
    sent = send(socket_, &job, sizeof(job), MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(sizeof(job));
}

absl::StatusOr<Reply> WorkerProcess::Receive(const WaitLimit& limit) {
  pollfd wait{.fd = socket_, .events = POLLIN, .revents = 0};
  std::int64_t stopped_ns = INT64_MAX;  // when it was first seen to be
  while (true) {
    const std::int64_t now_ns = SteadyNowNs();
    stopped_ns = IsStopped() ? std::min(stopped_ns, now_ns) : INT64_MAX;
    if (now_ns - kStoppedNs >= stopped_ns) {
      return absl::UnavailableError("decode worker: it was stopped");
    }
    const std::int64_t left_ns = limit.end_ns - now_ns;
    if (left_ns <= 0) return absl::DeadlineExceededError("decode worker: the time is over");
    if (limit.is_cancelled != nullptr && *limit.is_cancelled && (*limit.is_cancelled)()) {
      return absl::CancelledError("Request was cancelled");
    }
    const int ready =
        poll(&wait, 1, static_cast<int>(std::min(left_ns, kCancelPeriodNs) / kNsPerMs + 1));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return CannotStart("poll", errno);
  }
  Reply reply;
  // One byte more than a reply has, to tell a longer message.
  char bytes[sizeof(Reply) + 1];
  const ssize_t received = recv(socket_, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (received != static_cast<ssize_t>(sizeof(Reply))) {
    return absl::UnavailableError("decode worker: it ended");
  }
  std::memcpy(static_cast<void*>(&reply), bytes, sizeof(reply));
  return reply;
}

bool WorkerProcess::IsStopped() const {
  siginfo_t info{};
  const int options = WSTOPPED | WNOHANG | WNOWAIT;
  return waitid(P_PID, static_cast<id_t>(pid_), &info, options) == 0 && info.si_pid == pid_;
}

std::string WorkerProcess::Kill() {
  const bool stopped = IsStopped();
  kill(pid_, SIGKILL);
  int status = 0;
  pid_t reaped = -1;
  do {
    reaped = waitpid(pid_, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  pid_ = 0;
  if (stopped) return "stopped";
  return reaped < 0 ? std::string("unknown end") : EndText(status);
}

}  // namespace siglip
