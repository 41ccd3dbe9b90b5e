#include "server/shutdown.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

namespace siglip {
namespace {

enum class Phase { kLoading, kServing };

// Runs `body` in a child that has written a byte once its signals are set up, and returns its
// status.
template <class Signals, class Body>
int InChild(Signals send, Body body, Phase phase = Phase::kServing) {
  int ready[2];
  if (::pipe(ready) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    ShutdownSignals signals;
    if (phase == Phase::kServing) signals.BeginServing();
    static_cast<void>(!::write(ready[1], "x", 1));
    std::_Exit(body(signals, ready[1]));
  }
  char byte;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  send(child, ready[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  return status;
}

TEST(Shutdown, TheFirstSignalIsReported) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const int status =
        InChild([signal](pid_t child, int) { ::kill(child, signal); },
                [](ShutdownSignals& signals, int) { return signals.WaitForFirst(); });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), signal);
  }
}

TEST(Shutdown, WakeIsReportedAsNoSignalAndASignalStillEndsTheProcess) {
  const int status = InChild([](pid_t, int) {},
                             [](ShutdownSignals& signals, int) {
                               std::thread([&] { signals.Wake(); }).join();
                               const int signal = signals.WaitForFirst();
                               ::kill(::getpid(), SIGINT);
                               for (;;) ::pause();
                               return signal;
                             });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGINT);
}

TEST(Shutdown, TheSecondSignalEndsTheProcessAtOnce) {
  const int status = InChild(
      [](pid_t child, int fd) {
        ::kill(child, SIGTERM);
        char byte;
        EXPECT_EQ(::read(fd, &byte, 1), 1);
        ::kill(child, SIGINT);
      },
      [](ShutdownSignals& signals, int fd) {
        signals.WaitForFirst();
        static_cast<void>(!::write(fd, "y", 1));
        for (;;) ::pause();
        return 0;
      });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 128 + SIGINT);
}

// The child is still loading its models.
TEST(Shutdown, ASignalBeforeTheServerListensEndsTheProcessAtOnce) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const int status = InChild(
        [signal](pid_t child, int) {
          ::kill(child, SIGHUP);
          ::kill(child, signal);
        },
        [](ShutdownSignals&, int) {
          for (;;) ::pause();
          return 0;
        },
        Phase::kLoading);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 128 + signal);
  }
}

TEST(Shutdown, SigpipeIsIgnored) {
  const int status = InChild([](pid_t, int) {},
                             [](ShutdownSignals&, int) {
                               ::raise(SIGPIPE);
                               return 7;
                             });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

}  // namespace
}  // namespace siglip
