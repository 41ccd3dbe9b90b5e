// The workers of this test run this program too: its main() gives them a task that misbehaves as
// the picture's bytes tell it. The server's program has no such task.

#include "workers/decode_workers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <sstream>
#include <thread>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "workers/decode_worker.h"
#include "workers/sandbox.h"
#include "workers/wire.h"

namespace siglip {
namespace {

using testing::HasSubstr;

constexpr int kSide = 8;
// A page of each: 64 MiB on x86-64.
constexpr std::size_t kFillStride = std::size_t{64} << 10;

// ---- What a worker does with "do:WHAT".

volatile unsigned sink = 0;

void Crash() {
  // No null pointer: compilers reason about those, and leave the write out.
  volatile std::uintptr_t nowhere = 16;
  *reinterpret_cast<volatile int*>(nowhere) = 1;
}

void Hang() {
  while (true) sink = sink + 1;
}

void SendToServer(const Reply& reply, std::size_t bytes) {
  sink = static_cast<int>(write(kWorkerSocket, &reply, bytes));
}

absl::Status Misbehave(std::string_view what, float* pixels) {
  if (what == "crash") Crash();
  if (what == "hang") Hang();
  if (what == "open") sink = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
  if (what == "socket") sink = socket(AF_INET, SOCK_STREAM, 0);
  if (what == "fork") sink = fork();
  if (what == "thread") std::thread([] {}).join();
  if (what == "kill the server") sink = kill(getppid(), SIGTERM);
  if (what == "run memory") {
    void* memory =
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sink = memory == MAP_FAILED ? 1 : 0;
  }
  if (what == "take pages away") {
    if (madvise(pixels, kFillStride, MADV_REMOVE) == 0) Crash();
  }
  if (what == "stderr") std::fprintf(stderr, "this goes nowhere\n");
  if (what == "write elsewhere") pixels[64 << 10] = 1;
  if (what == "write what came") const_cast<char&>(what[0]) = 'W';
  if (what == "too much memory") {
    void* memory = std::malloc(static_cast<std::size_t>(kWorkerMemoryBytes) + 1);
    if (memory == nullptr) return absl::ResourceExhaustedError("no");
    std::free(memory);
  }
  if (what == "half a reply") SendToServer({}, 10);
  if (what == "a lie") {
    Reply lie;
    lie.code = static_cast<ReplyCode>(77);
    lie.reason = static_cast<RefusedReason>(99);
    lie.times = {.decode_ns = INT64_MIN, .resize_ns = INT64_MAX, .normalize_ns = -1};
    lie.message_bytes = UINT32_MAX;
    std::memset(lie.message, '\n', sizeof(lie.message));
    SendToServer(lie, sizeof(lie));
  }
  if (what == "reply for ever") {
    while (true) SendToServer({}, sizeof(Reply));
  }
  if (what == "fill the memory") {
    // The first block's pixels are at the area's beginning.
    auto* const area = reinterpret_cast<std::byte*>(pixels);
    sink = mprotect(area, kPixelAreaBytes, PROT_READ | PROT_WRITE);
    for (std::size_t i = 0; i < kPixelAreaBytes; i += kFillStride) area[i] = std::byte{1};
    Crash();
  }
  if (what == "retire") {
    Reply last;
    last.retiring = 1;
    SendToServer(last, sizeof(last));
  }
  pixels[0] = 1;
  return absl::OkStatus();
}

absl::StatusOr<ImageHeader> ReadPictureHeader(const Preprocessor& preprocessor,
                                              std::string_view bytes) {
  return preprocessor.ReadHeader(bytes);
}

absl::StatusOr<PixelSize> TestTask(const Preprocessor& preprocessor, std::string_view bytes,
                                   float* pixels, StageTimes& times) {
  if (bytes == "do:an impossible size") return PixelSize{kSide * 2, kSide * 2};
  if (bytes.starts_with("do:")) {
    SIGLIP_RETURN_IF_ERROR(Misbehave(bytes.substr(3), pixels));
    return PixelSize{kSide, kSide};
  }
  return preprocessor.Preprocess(bytes, pixels, times);
}

absl::StatusOr<RgbImage> TestDecode(const Preprocessor& preprocessor, std::string_view bytes) {
  if (bytes == "do:crash") Crash();
  if (bytes == "do:another size") {
    RgbImage image;
    image.width = 2 * kSide;
    image.height = kSide;
    image.pixels = PixelBuffer(std::size_t{3} * 2 * kSide * kSide);
    return image;
  }
  return DecodeRgb(bytes, preprocessor.options().max_pixels);
}

// ---- The tests.

PreprocessOptions SmallOptions() {
  PreprocessOptions options;
  options.image_size = kSide;
  return options;
}

std::string DemoPicture() { return *ReadFile("data/demo/examples/seven.png", 1 << 20); }

std::unique_ptr<DecodeWorkers> StartWorkers(int count, int timeout_ms = 60'000) {
  auto workers = DecodeWorkers::Start(
      {.count = count, .picture_timeout = std::chrono::milliseconds(timeout_ms)});
  EXPECT_TRUE(workers.ok()) << workers.status();
  return *std::move(workers);
}

struct Outcome {
  absl::Status status;
  std::array<float, 3 * kSide* kSide> pixels = {};
};

Outcome Decode(DecodeWorkers& workers, std::string_view bytes, const WaitLimit& limit = {}) {
  Outcome outcome;
  StageTimes times;
  outcome.status =
      workers.Preprocess(Preprocessor(SmallOptions()), bytes, outcome.pixels.data(), limit, times)
          .status();
  return outcome;
}

std::string ReasonOf(const absl::Status& status) {
  return std::string(status.GetPayload("siglip.image_refused").value_or(absl::Cord("none")));
}

// The demo's picture comes out of a worker as out of this process.
void ExpectWorks(DecodeWorkers& workers) {
  Outcome expected;
  ASSERT_TRUE(Preprocessor(SmallOptions()).Preprocess(DemoPicture(), expected.pixels.data()).ok());
  const Outcome got = Decode(workers, DemoPicture());
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(got.pixels, expected.pixels);
}

// Processes that this one has started and not reaped.
std::set<pid_t> Children() {
  std::set<pid_t> pids;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "children");
    for (pid_t pid; file >> pid;) pids.insert(pid);
  }
  return pids;
}

std::string FileText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Returns when all are in the state, which is a moment after the signal.
void SendAll(const std::set<pid_t>& pids, int signal, const char* state) {
  for (const pid_t pid : pids) kill(pid, signal);
  for (const pid_t pid : pids) {
    while (FileText(absl::StrCat("/proc/", pid, "/stat")).find(state) == std::string::npos) {
      std::this_thread::yield();
    }
  }
}

void KillAll(const std::set<pid_t>& pids) { SendAll(pids, SIGKILL, ") Z"); }
void StopAll(const std::set<pid_t>& pids) { SendAll(pids, SIGSTOP, ") T"); }

// The worker that has a picture, once one of them computes.
pid_t AwaitBusy() {
  while (true) {
    for (const pid_t pid : Children()) {
      std::istringstream stat(FileText(absl::StrCat("/proc/", pid, "/stat")));
      std::string field;
      for (int i = 0; i < 14; ++i) stat >> field;  // the 14th: ticks in user mode
      if (std::atoi(field.c_str()) > 3) return pid;
    }
  }
}

std::size_t NumDescriptors(const std::string& process) {
  const auto folder = std::filesystem::directory_iterator("/proc/" + process + "/fd");
  return static_cast<std::size_t>(std::distance(begin(folder), end(folder)));
}

TEST(DecodeWorkersTest, PixelsAreThoseOfThisProcess) {
  const auto workers = StartWorkers(2);
  for (int i = 0; i < 5; ++i) ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, PixelsAreWrittenWhereTheyAreRead) {
  auto workers = StartWorkers(2);
  const PixelMemory memory = workers->Allocate(sizeof(Outcome::pixels));
  ASSERT_NE(memory.owner, nullptr);
  auto* pixels = reinterpret_cast<float*>(memory.bytes.data());
  StageTimes times;
  const Preprocessor preprocessor(SmallOptions());
  ASSERT_TRUE(workers->Preprocess(preprocessor, DemoPicture(), pixels, {}, times).ok());
  EXPECT_GT(times.decode_ns, 0);
  Outcome expected;
  ASSERT_TRUE(preprocessor.Preprocess(DemoPicture(), expected.pixels.data()).ok());
  EXPECT_TRUE(std::equal(expected.pixels.begin(), expected.pixels.end(), pixels));
  workers.reset();
  EXPECT_EQ(pixels[0], expected.pixels[0]) << "the memory outlives the workers";
}

TEST(DecodeWorkersTest, RefusalsAreThoseOfThisProcess) {
  const auto workers = StartWorkers(1);
  for (const std::string& bytes : {std::string(), std::string("not a picture"),
                                   DemoPicture().substr(0, DemoPicture().size() / 2)}) {
    Outcome expected;
    expected.status =
        Preprocessor(SmallOptions()).Preprocess(bytes, expected.pixels.data()).status();
    const Outcome got = Decode(*workers, bytes);
    EXPECT_EQ(got.status, expected.status);
  }
}

TEST(DecodeWorkersTest, OneModelAfterAnother) {
  const auto workers = StartWorkers(1);
  for (const int side : {8, 32, 8}) {
    PreprocessOptions options;
    options.image_size = side;
    options.mean = {0.1 * side, 0.2, 0.3};
    std::vector<float> got(static_cast<std::size_t>(3 * side * side));
    std::vector<float> expected(got.size());
    StageTimes times;
    const Preprocessor preprocessor(options);
    ASSERT_TRUE(workers->Preprocess(preprocessor, DemoPicture(), got.data(), {}, times).ok());
    ASSERT_TRUE(preprocessor.Preprocess(DemoPicture(), expected.data()).ok());
    EXPECT_EQ(got, expected);
  }
}

TEST(DecodeWorkersTest, PatchesAndTheirGrid) {
  const auto workers = StartWorkers(1);
  PreprocessOptions options;
  options.patches = {.patch_size = 4, .max_patches = 30};
  const Preprocessor preprocessor(options);
  std::vector<float> got(preprocessor.pixel_values());
  std::vector<float> expected(got.size());
  StageTimes times;
  const std::string picture = *ReadFile("tests/data/image/interlaced_d8_c2_13x9.png", 1 << 20);
  const auto size = workers->Preprocess(preprocessor, picture, got.data(), {}, times);
  const auto expected_size = preprocessor.Preprocess(picture, expected.data());
  ASSERT_TRUE(size.ok() && expected_size.ok()) << size.status() << expected_size.status();
  EXPECT_EQ(size->width, expected_size->width);
  EXPECT_EQ(size->height, expected_size->height);
  EXPECT_EQ(got, expected);

  options.patches = {.patch_size = kSide, .max_patches = 1};
  std::vector<float> one(Preprocessor(options).pixel_values());
  EXPECT_EQ(
      ReasonOf(
          workers->Preprocess(Preprocessor(options), "do:an impossible size", one.data(), {}, times)
              .status()),
      "decoder_crashed");
}

TEST(DecodeWorkersTest, DecodesWithoutResizing) {
  const auto workers = StartWorkers(1);
  const Preprocessor preprocessor(SmallOptions());
  const auto expected = DecodeRgb(DemoPicture(), kPillowMaxPixels);
  const auto header = preprocessor.ReadHeader(DemoPicture());
  ASSERT_TRUE(expected.ok() && header.ok());
  StageTimes times;
  const auto got = workers->Decode(preprocessor, DemoPicture(), *header, {}, times);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_GT(times.decode_ns, 0);
  EXPECT_EQ(times.resize_ns, 0);
  EXPECT_EQ(got->size.width, expected->width);
  EXPECT_EQ(got->size.height, expected->height);
  ASSERT_EQ(got->rgb.bytes.size(), expected->pixels.size());
  EXPECT_EQ(std::memcmp(got->rgb.bytes.data(), expected->pixels.data(), expected->pixels.size()),
            0);
}

TEST(DecodeWorkersTest, WhatGoesWrongWithDecodingAloneCostsThatPictureAlone) {
  const auto workers = StartWorkers(1);
  const Preprocessor preprocessor(SmallOptions());
  ImageHeader header;
  header.width = kSide;
  header.height = kSide;
  StageTimes times;
  const auto crashed = workers->Decode(preprocessor, "do:crash", header, {}, times);
  EXPECT_EQ(crashed.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ReasonOf(crashed.status()), "decoder_crashed");
  const auto other = workers->Decode(preprocessor, "do:another size", header, {}, times);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(other.status().message()), HasSubstr("16x8 pixels, by its head 8x8"));
  const auto damaged = workers->Decode(preprocessor, "not a picture", header, {}, times);
  EXPECT_EQ(damaged.status(), DecodeRgb("not a picture", kPillowMaxPixels).status());
  // More than there is memory for.
  header.width = 1 << 20;
  header.height = 1 << 10;
  const auto large = workers->Decode(preprocessor, DemoPicture(), header, {}, times);
  EXPECT_EQ(ReasonOf(large.status()), "no_memory");
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, ManyThreadsShareTheWorkers) {
  const auto workers = StartWorkers(2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&workers, t] {
      for (int i = 0; i < 20; ++i) {
        if (t == 0 && i % 5 == 0) {
          EXPECT_EQ(ReasonOf(Decode(*workers, "do:crash").status), "decoder_crashed");
        }
        ExpectWorks(*workers);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(DecodeWorkersTest, PictureThatCrashesItsDecoderFailsAlone) {
  const auto workers = StartWorkers(1);
  for (int i = 0; i < 3; ++i) {
    const Outcome got = Decode(*workers, "do:crash");
    EXPECT_EQ(got.status.code(), absl::StatusCode::kInternal) << got.status;
    EXPECT_EQ(ReasonOf(got.status), "decoder_crashed");
    ExpectWorks(*workers);
  }
  EXPECT_TRUE(workers->Readiness().ok());
}

TEST(DecodeWorkersTest, WhatIsNotAllowedEndsTheWorker) {
  if (std::string_view(SandboxName()) != "seccomp") {
    GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this build's workers have " << SandboxName();
  }
  const auto workers = StartWorkers(1);
  for (const char* what : {"open", "socket", "fork", "thread", "kill the server", "run memory"}) {
    const Outcome got = Decode(*workers, absl::StrCat("do:", what));
    EXPECT_EQ(ReasonOf(got.status), "decoder_crashed") << what;
    EXPECT_THAT(std::string(got.status.message()), HasSubstr(absl::StrCat("signal ", SIGSYS)))
        << what;
  }
  EXPECT_TRUE(Decode(*workers, "do:stderr").status.ok()) << "libraries complain there";
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, AdviceOnPagesIsRefused) {
  if (std::string_view(SandboxName()) != "seccomp") {
    GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this build's workers have " << SandboxName();
  }
  const auto workers = StartWorkers(1);
  const Outcome got = Decode(*workers, "do:take pages away");
  EXPECT_TRUE(got.status.ok()) << got.status;
}

TEST(DecodeWorkersTest, MemoryHasALimit) {
  if (std::string_view(SandboxName()) != "seccomp") {
    GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this build's workers have " << SandboxName();
  }
  const auto workers = StartWorkers(1);
  EXPECT_EQ(Decode(*workers, "do:too much memory").status.code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(DecodeWorkersTest, StrayWritesMeetNoOtherPicture) {
  const auto workers = StartWorkers(1);
  const std::size_t block = 64 << 10;
  const PixelMemory first = workers->Allocate(block);
  const PixelMemory second = workers->Allocate(block * 8);
  std::fill(second.bytes.begin(), second.bytes.end(), std::byte{5});
  for (const char* what : {"write elsewhere", "write what came"}) {
    StageTimes times;
    const absl::Status status =
        workers
            ->Preprocess(Preprocessor(SmallOptions()), absl::StrCat("do:", what),
                         reinterpret_cast<float*>(first.bytes.data()), {}, times)
            .status();
    EXPECT_EQ(ReasonOf(status), "decoder_crashed") << what;
  }
  EXPECT_EQ(std::count(second.bytes.begin(), second.bytes.end(), std::byte{5}), block * 8);
}

TEST(DecodeWorkersTest, PictureThatTakesTooLongIsGivenUp) {
  const auto workers = StartWorkers(1, 50);
  const Outcome got = Decode(*workers, "do:hang");
  EXPECT_EQ(got.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("50 ms"));
  EXPECT_EQ(ReasonOf(got.status), "too_slow");
}

TEST(DecodeWorkersTest, RequestsEndReachesTheDecoder) {
  const auto workers = StartWorkers(1);
  const Outcome got = Decode(*workers, "do:hang", {.end_ns = SteadyNowNs() + 20'000'000});
  EXPECT_EQ(got.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(got.status.message(), "Deadline Exceeded");
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, ClientThatHasGoneReachesTheDecoder) {
  const auto workers = StartWorkers(1);
  std::atomic<int> asked = 0;
  const std::function<bool()> gone = [&asked] { return ++asked > 1; };
  EXPECT_EQ(Decode(*workers, "do:hang", {.is_cancelled = &gone}).status.code(),
            absl::StatusCode::kCancelled);
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, WorkerKilledInTheMiddleCostsItsPicture) {
  const auto workers = StartWorkers(1);
  auto hanging = std::async(std::launch::async, [&] { return Decode(*workers, "do:hang"); });
  kill(AwaitBusy(), SIGKILL);
  const Outcome got = hanging.get();
  EXPECT_EQ(got.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("signal 9"));
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, WorkersKilledWhileTheyWaitCostNothing) {
  const auto workers = StartWorkers(2);
  for (int i = 0; i < 3; ++i) {
    KillAll(Children());
    ExpectWorks(*workers);
    ExpectWorks(*workers);
  }
}

// SIGSTOP, as debuggers send it, or a freezer of the system.
TEST(DecodeWorkersTest, WorkerStoppedInTheMiddleCostsItsPicture) {
  const auto workers = StartWorkers(1, 20'000);
  auto hanging = std::async(std::launch::async, [&] { return Decode(*workers, "do:hang"); });
  kill(AwaitBusy(), SIGSTOP);
  const Outcome got = hanging.get();
  EXPECT_EQ(got.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(got.status.message()), HasSubstr("stopped"));
  EXPECT_EQ(ReasonOf(got.status), "decoder_crashed");
  ExpectWorks(*workers);
}

TEST(DecodeWorkersTest, WorkersStoppedWhileTheyWaitCostNothing) {
  const auto workers = StartWorkers(2, 5'000);
  for (int i = 0; i < 3; ++i) {
    StopAll(Children());
    ExpectWorks(*workers);
    ExpectWorks(*workers);
  }
}

// Ctrl-Z and fg stop the server and its workers for a moment, and cost nothing.
TEST(DecodeWorkersTest, WorkerThatGoesOnSoonIsLeftAlone) {
  const auto workers = StartWorkers(1);
  auto hanging = std::async(std::launch::async, [&] {
    return Decode(*workers, "do:hang", {.end_ns = SteadyNowNs() + 1'500'000'000});
  });
  const pid_t busy = AwaitBusy();
  StopAll({busy});
  kill(busy, SIGCONT);
  EXPECT_EQ(hanging.get().status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(DecodeWorkersTest, RepliesAreNotTrusted) {
  const auto workers = StartWorkers(1);
  EXPECT_EQ(ReasonOf(Decode(*workers, "do:half a reply").status), "decoder_crashed");
  StageTimes times;
  std::array<float, 3 * kSide * kSide> pixels;
  const absl::Status lie =
      workers->Preprocess(Preprocessor(SmallOptions()), "do:a lie", pixels.data(), {}, times)
          .status();
  EXPECT_EQ(lie.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(lie.message(), std::string(sizeof(Reply::message), '?'));
  EXPECT_EQ(times.decode_ns, 0);
  EXPECT_EQ(times.resize_ns, 60'000'000'000);
}

TEST(DecodeWorkersTest, WorkerThatRetiresIsReplaced) {
  const auto workers = StartWorkers(1);
  const std::set<pid_t> before = Children();
  EXPECT_TRUE(Decode(*workers, "do:retire").status.ok());
  ExpectWorks(*workers);
  EXPECT_NE(Children(), before);
}

TEST(DecodeWorkersTest, WorkerThatNeverReadsIsReplaced) {
  const auto workers = StartWorkers(1);
  const std::set<pid_t> before = Children();
  auto replaced = std::async(std::launch::async, [&] {
    Decode(*workers, "do:reply for ever");
    while (Children() == before) Decode(*workers, DemoPicture());
  });
  if (replaced.wait_for(std::chrono::seconds(60)) != std::future_status::ready) {
    ADD_FAILURE() << "the server waits for a worker that does not read";
    for (const pid_t pid : before) kill(pid, SIGKILL);
  }
  replaced.get();
  ExpectWorks(*workers);
}

// What the arenas of this process take up.
std::int64_t ArenaBytes() {
  std::int64_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(file.path(), error);
    struct stat info = {};
    if (target.starts_with("/memfd:siglip-pixels") && stat(file.path().c_str(), &info) == 0) {
      bytes += info.st_blocks * 512;
    }
  }
  return bytes;
}

TEST(DecodeWorkersTest, MemoryThatAWorkerFilledIsGivenBackWhenItIsReplaced) {
  const auto workers = StartWorkers(1);
  ExpectWorks(*workers);
  EXPECT_GT(ArenaBytes(), 0);
  EXPECT_EQ(ReasonOf(Decode(*workers, "do:fill the memory").status), "decoder_crashed");
  ExpectWorks(*workers);
  EXPECT_LT(ArenaBytes(), 4 << 20);
}

TEST(DecodeWorkersTest, WorkersHaveNothingButTheirSocket) {
  const auto workers = StartWorkers(1);
  ASSERT_EQ(Children().size(), 2U);
  for (const pid_t pid : Children()) {
    const std::string folder = absl::StrCat("/proc/", pid);
    EXPECT_EQ(FileText(folder + "/environ"), "");
    const std::string status = FileText(folder + "/status");
    EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
    EXPECT_THAT(FileText(folder + "/limits"), HasSubstr("Max core file size        0"));
    if (std::string_view(SandboxName()) != "seccomp") continue;
    EXPECT_EQ(NumDescriptors(absl::StrCat(pid)), 1U);
    EXPECT_THAT(status, HasSubstr("Seccomp:\t2"));
  }
}

// Each worker decodes a picture: none is being started when it returns.
void UseEach(DecodeWorkers& workers) {
  std::vector<PixelMemory> places;
  // Places that wait are dealt out evenly, give or take one.
  for (int i = 0; i < 2 * workers.count(); ++i) {
    places.push_back(workers.Allocate(sizeof(Outcome::pixels)));
  }
  StageTimes times;
  for (const PixelMemory& place : places) {
    auto* const pixels = reinterpret_cast<float*>(place.bytes.data());
    const Preprocessor preprocessor(SmallOptions());
    EXPECT_TRUE(workers.Preprocess(preprocessor, DemoPicture(), pixels, {}, times).ok());
  }
}

// As under a slow encoder.
TEST(DecodeWorkersTest, PicturesAreDecodedHoweverManyWaitForTheEncoder) {
  const auto workers = StartWorkers(2);
  const Preprocessor preprocessor(SmallOptions());
  constexpr std::size_t kBlock = kPixelAreaBytes / 16;
  std::vector<PixelMemory> waiting;
  for (PixelMemory block = workers->Allocate(kBlock); block.owner != nullptr;
       block = workers->Allocate(kBlock)) {
    auto* const pixels = reinterpret_cast<float*>(block.bytes.data());
    StageTimes times;
    ASSERT_TRUE(workers->Preprocess(preprocessor, DemoPicture(), pixels, {}, times).ok());
    waiting.push_back(std::move(block));
  }
  EXPECT_GT(waiting.size(), 16U) << "of both workers";
  ExpectWorks(*workers);
}

// The first place of an arena is where its first place was before.
TEST(DecodeWorkersTest, PlacesThatAreTakenAtOnceAreOfIdleWorkersEach) {
  const auto workers = StartWorkers(2);
  std::set<std::byte*> firsts;
  {
    const PixelMemory a = workers->Allocate(sizeof(Outcome::pixels));
    const PixelMemory b = workers->Allocate(sizeof(Outcome::pixels));
    firsts = {a.bytes.data(), b.bytes.data()};
  }
  std::atomic<int> arrived{0};
  const auto meet = [&arrived](int all) {
    ++arrived;
    // Not a wait in the kernel, which wakes one after the other.
    for (int spins = 0; arrived < all; ++spins) {
      if (spins > 1000) std::this_thread::yield();
    }
  };
  int shared = 0;
  PixelMemory* other = nullptr;
  const auto take = [&](bool judge) {
    for (int round = 0; round < 20'000; ++round) {
      meet(6 * round + 2);
      PixelMemory mine = workers->Allocate(sizeof(Outcome::pixels));
      if (!judge) other = &mine;
      meet(6 * round + 4);
      if (judge && std::set{mine.bytes.data(), other->bytes.data()} != firsts) ++shared;
      meet(6 * round + 6);
    }
  };
  std::thread second(take, false);
  take(true);
  second.join();
  EXPECT_EQ(shared, 0);
}

TEST(DecodeWorkersTest, NothingLeaksWhenWorkersEnd) {
  const auto workers = StartWorkers(2);
  ExpectWorks(*workers);
  const std::size_t descriptors = NumDescriptors("self");
  for (int i = 0; i < 20; ++i) Decode(*workers, "do:crash");
  UseEach(*workers);
  EXPECT_LE(NumDescriptors("self"), descriptors);
  EXPECT_LE(Children().size(), 3U);
}

TEST(DecodeWorkersTest, WorkersEndWithThePool) {
  { const auto workers = StartWorkers(2); }
  EXPECT_EQ(Children().size(), 0U);
}

TEST(DecodeWorkersTest, ProgramThatIsNoWorkerIsAnError) {
  for (const char* program : {"/bin/false", "/does/not/exist"}) {
    const auto workers = DecodeWorkers::Start({.count = 1, .program = program});
    EXPECT_EQ(workers.status().code(), absl::StatusCode::kUnavailable) << program;
  }
}

TEST(DecodeWorkersTest, NotReadyOnlyWhileNoWorkerStarts) {
  const std::filesystem::path program = std::filesystem::temp_directory_path() / "worker";
  std::filesystem::remove(program);
  std::filesystem::create_symlink(std::filesystem::read_symlink("/proc/self/exe"), program);
  const auto workers = DecodeWorkers::Start({.count = 1, .program = program});
  ASSERT_TRUE(workers.ok()) << workers.status();
  std::filesystem::remove(program);
  Decode(**workers, "do:crash");
  EXPECT_EQ(ReasonOf(Decode(**workers, DemoPicture()).status), "no_decoder");
  EXPECT_FALSE((*workers)->Readiness().ok());
  std::filesystem::create_symlink(std::filesystem::read_symlink("/proc/self/exe"), program);
  while (!(*workers)->Readiness().ok()) std::this_thread::yield();
  ExpectWorks(**workers);
  std::filesystem::remove(program);
}

// A program for workers that tests take away and put back.
class TakenAwayProgram {
 public:
  TakenAwayProgram() { PutBack(); }
  ~TakenAwayProgram() { std::filesystem::remove_all(folder_); }

  std::string path() const { return folder_ / "worker"; }
  void PutBack() {
    std::filesystem::remove(path());
    std::filesystem::create_symlink(std::filesystem::read_symlink("/proc/self/exe"), path());
  }
  // In its place comes one that only counts its starts.
  void TakeAway() {
    std::filesystem::remove(path());
    std::ofstream(path()) << "#!/bin/sh\necho >> " << counts() << "\nexit 1\n";
    std::filesystem::permissions(path(), std::filesystem::perms::owner_all);
  }
  std::int64_t starts() const {
    const std::string text = FileText(counts());
    return std::count(text.begin(), text.end(), '\n');
  }

 private:
  std::string counts() const { return folder_ / "starts"; }

  const std::filesystem::path folder_ = [] {
    std::string folder = std::filesystem::temp_directory_path() / "workersXXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    return folder;
  }();
};

TEST(DecodeWorkersTest, WhereNoneStartsFewAreTriedAndAllComeBackSoon) {
  constexpr int kWorkers = 4;
  TakenAwayProgram program;
  const auto workers = DecodeWorkers::Start({.count = kWorkers, .program = program.path()});
  ASSERT_TRUE(workers.ok()) << workers.status();
  program.TakeAway();
  KillAll(Children());
  while ((*workers)->Readiness().ok()) Decode(**workers, DemoPicture());
  // Long enough for a wait that doubles without end to be one of seconds.
  std::this_thread::sleep_for(std::chrono::milliseconds(3300));
  EXPECT_LE(program.starts(), kWorkers + 1 + 8);
  program.PutBack();
  const std::int64_t back_ns = SteadyNowNs();
  while (!(*workers)->Readiness().ok()) std::this_thread::yield();
  EXPECT_LT(SteadyNowNs() - back_ns, 2'000'000'000);
  UseEach(**workers);
}

TEST(DecodeWorkersTest, WhereOneDoesNotStartAnotherHasItsPictures) {
  TakenAwayProgram program;
  const auto workers = DecodeWorkers::Start({.count = 2, .program = program.path()});
  ASSERT_TRUE(workers.ok()) << workers.status();
  program.TakeAway();
  const PixelMemory place = (*workers)->Allocate(sizeof(Outcome::pixels));
  auto* const pixels = reinterpret_cast<float*>(place.bytes.data());
  const Preprocessor preprocessor(SmallOptions());
  StageTimes times;
  EXPECT_EQ(ReasonOf((*workers)->Preprocess(preprocessor, "do:crash", pixels, {}, times).status()),
            "decoder_crashed");
  const auto size = (*workers)->Preprocess(preprocessor, DemoPicture(), pixels, {}, times);
  ASSERT_TRUE(size.ok()) << size.status();
  Outcome expected;
  ASSERT_TRUE(preprocessor.Preprocess(DemoPicture(), expected.pixels.data()).ok());
  EXPECT_TRUE(std::equal(expected.pixels.begin(), expected.pixels.end(), pixels));
}

// Each of them under the filter, against this process.
void ExpectSameVerdicts(const std::vector<std::string>& paths) {
  const auto workers = StartWorkers(2);
  const Preprocessor preprocessor(SmallOptions());
  std::atomic<std::size_t> next = 0;
  std::atomic<int> accepted = 0;
  const auto check = [&] {
    for (std::size_t i = next++; i < paths.size(); i = next++) {
      const auto bytes = ReadFile(paths[i], std::uint64_t{1} << 28);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      Outcome expected;
      expected.status = preprocessor.Preprocess(*bytes, expected.pixels.data()).status();
      const Outcome got = Decode(*workers, *bytes);
      EXPECT_EQ(got.status, expected.status) << paths[i];
      EXPECT_EQ(got.pixels, expected.pixels) << paths[i];
      if (expected.status.ok()) ++accepted;
      const auto header = workers->ReadImageHeader(preprocessor, *bytes, {});
      const auto expected_header = preprocessor.ReadHeader(*bytes);
      EXPECT_EQ(header.status(), expected_header.status()) << paths[i];
      if (!header.ok() || !expected_header.ok()) continue;
      EXPECT_EQ(header->working_set_bytes, expected_header->working_set_bytes) << paths[i];
      StageTimes times;
      const auto rgb = workers->Decode(preprocessor, *bytes, *header, {}, times);
      const auto expected_rgb = DecodeRgb(*bytes, kPillowMaxPixels);
      EXPECT_EQ(rgb.status(), expected_rgb.status()) << paths[i];
      if (!rgb.ok() || !expected_rgb.ok()) continue;
      EXPECT_EQ(std::memcmp(rgb->rgb.bytes.data(), expected_rgb->pixels.data(),
                            expected_rgb->pixels.size()),
                0)
          << paths[i];
    }
  };
  std::thread other(check);
  check();
  other.join();
  EXPECT_GT(accepted, 0);
}

TEST(DecodeWorkersTest, EveryFormatIsAsInThisProcess) {
  std::vector<std::string> paths;
  for (const auto& file : std::filesystem::directory_iterator("tests/data/image")) {
    if (file.is_regular_file()) paths.push_back(file.path());
  }
  ExpectSameVerdicts(paths);
}

TEST(DecodeWorkersTest, EveryCorpusFileIsAsInThisProcess) {
  const char* folder = std::getenv("SIGLIP_CORPORA");
  if (folder == nullptr) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: SIGLIP_CORPORA is not set";
  const std::string root = folder;
  const auto text = ReadFile(root + "/verdicts.json", std::uint64_t{1} << 28);
  if (!text.ok()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: no verdicts.json in SIGLIP_CORPORA";
  const nlohmann::json record = nlohmann::json::parse(*text);
  std::vector<std::string> paths;
  for (const auto& [name, verdict] : record["files"].items()) {
    paths.push_back(root + "/images/" + name);
  }
  ExpectSameVerdicts(paths);
}

}  // namespace
}  // namespace siglip

int main(int argc, char** argv) {
  if (argc == 2 && argv[1] == siglip::kDecodeWorkerArgument) {
    return siglip::RunDecodeWorker({.read_header = siglip::ReadPictureHeader,
                                    .preprocess = siglip::TestTask,
                                    .decode = siglip::TestDecode});
  }
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
