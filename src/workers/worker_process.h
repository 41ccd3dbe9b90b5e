#pragma once

// One decode worker as the server sees it: a child process, a socket, and the shared memory that it
// was started with.

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/wire.h"

namespace siglip {

// When the server stops waiting for a worker.
struct WaitLimit {
  std::int64_t end_ns = INT64_MAX;                      // steady clock
  const std::function<bool()>* is_cancelled = nullptr;  // looked at now and then; may be null
};

// Used by one thread at a time. The destructor kills the process.
class WorkerProcess {
 public:
  // Starts `program` with kDecodeWorkerArgument, an empty environment and no signal blocked. Of the
  // caller's descriptors the child gets `memory` and, until it is in the sandbox, stderr. The
  // calling thread must live as long as the process: the kernel kills it when the thread ends.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(const std::string& program,
                                                              int memory);
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const { return pid_; }

  // Never waits. False if the process was gone before, or has left so many jobs unread that there
  // is no room for another: the job was not begun.
  bool Send(const Job& job);
  // The next message, whatever it says: nothing in it has been checked but its length. Unavailable:
  // the process ended, is stopped and does not go on within a second, or sent something else;
  // DeadlineExceeded and Cancelled: by `limit`.
  absl::StatusOr<Reply> Receive(const WaitLimit& limit);
  // Whether a signal has stopped it (SIGSTOP), so that it neither works nor ends.
  bool IsStopped() const;
  // Ends the process if it still runs. How it ended: "signal 11", "exit code 1", "stopped".
  std::string Kill();

 private:
  WorkerProcess(pid_t pid, int socket) : pid_(pid), socket_(socket) {}

  pid_t pid_;  // 0: reaped
  const int socket_;
};

}  // namespace siglip
