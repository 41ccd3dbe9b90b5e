#include "workers/decode_worker.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <exception>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "workers/sandbox.h"
#include "workers/wire.h"

namespace siglip {
namespace {

// Far above the time that one picture may take (DecodeWorkersOptions), so that a worker is replaced
// between two pictures and not by the kernel in the middle of one.
constexpr int kCpuLimitSeconds = kWorkerLifeCpuSeconds + 2 * 600;

RefusedReason ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload("siglip.image_refused");
  if (!payload) return RefusedReason::kNone;
  for (const auto& [known, name] : kRefusedReasonNames) {
    if (*payload == name) return known;
  }
  return kRefusedReasonNames[0].reason;
}

ReplyCode CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ReplyCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      return ReplyCode::kInvalidArgument;
    case absl::StatusCode::kResourceExhausted:
      return ReplyCode::kResourceExhausted;
    default:
      return ReplyCode::kInternal;
  }
}

void SetStatus(const absl::Status& status, Reply& reply) {
  reply.code = CodeOf(status);
  reply.reason = ReasonOf(status);
  const std::size_t bytes = std::min(status.message().size(), sizeof(reply.message));
  std::copy_n(status.message().begin(), bytes, reply.message);
  reply.message_bytes = static_cast<std::uint32_t>(bytes);
}

// The shared memory as a worker sees it.
class WorkerMemory {
 public:
  absl::Status Map(int descriptor) {
    const auto part = [descriptor](std::size_t bytes, int protection, std::size_t offset) {
      return mmap(nullptr, bytes, protection, MAP_SHARED, descriptor, static_cast<off_t>(offset));
    };
    void* encoded = part(kEncodedAreaBytes, PROT_READ, 0);
    void* pixels = part(kPixelAreaBytes, PROT_NONE, kEncodedAreaBytes);
    if (encoded == MAP_FAILED || pixels == MAP_FAILED) {
      return absl::InternalError(absl::StrCat("mmap: ", std::strerror(errno)));
    }
    encoded_ = static_cast<const char*>(encoded);
    pixels_ = static_cast<std::byte*>(pixels);
    page_bytes_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return absl::OkStatus();
  }

  std::string_view encoded(std::size_t bytes) const {
    return {encoded_, std::min(bytes, kEncodedAreaBytes)};
  }

  // Makes the pages of one block writable for `work`: a write that goes astray meets no other
  // picture's pixels.
  template <class Work>
  absl::Status WithPixels(std::size_t offset, std::size_t bytes, const Work& work) {
    if (offset > kPixelAreaBytes || bytes > kPixelAreaBytes - offset) {
      return absl::InternalError("pixels outside the shared memory");
    }
    const std::size_t begin = offset / page_bytes_ * page_bytes_;
    const std::size_t end = (offset + bytes + page_bytes_ - 1) / page_bytes_ * page_bytes_;
    if (mprotect(pixels_ + begin, end - begin, PROT_READ | PROT_WRITE) != 0) {
      return absl::ResourceExhaustedError("the shared memory cannot be opened");
    }
    const absl::Status status = work(pixels_ + offset);
    if (mprotect(pixels_ + begin, end - begin, PROT_NONE) != 0) {
      return absl::ResourceExhaustedError("the shared memory cannot be closed");
    }
    return status;
  }

 private:
  const char* encoded_ = nullptr;
  std::byte* pixels_ = nullptr;
  std::size_t page_bytes_ = 0;
};

class DecodeWorker {
 public:
  explicit DecodeWorker(const DecodeWorkerTasks& tasks) : tasks_(tasks) {}

  absl::Status SetUp() {
    // The server ends it by closing the socket. A terminal and systemd send these to every process.
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) std::signal(number, SIG_IGN);
    // In the middle of a picture nobody reads the socket.
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) {
      return absl::InternalError(absl::StrCat("pdeathsig: ", std::strerror(errno)));
    }
    PreferAsVictim();
    // Little CMS dates its profiles; the C library then reads /etc/localtime, once.
    tzset();
    SIGLIP_RETURN_IF_ERROR(memory_.Map(kWorkerMemory));
    return EnterSandbox({.descriptor = kWorkerSocket,
                         .memory_bytes = kWorkerMemoryBytes,
                         .cpu_seconds = kCpuLimitSeconds});
  }

  Reply Run(const Job& job) {
    Reply reply;
    SetStatus(RunTask(job, reply), reply);
    timespec used = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    reply.retiring = used.tv_sec >= kWorkerLifeCpuSeconds ? 1 : 0;
    return reply;
  }

 private:
  absl::Status RunTask(const Job& job, Reply& reply) {
    switch (job.kind) {
      case JobKind::kReadHeader:
        return ReadHeader(job, reply);
      case JobKind::kPreprocess:
        return Preprocess(job, reply);
      case JobKind::kDecode:
        break;
    }
    return Decode(job, reply);
  }

  // Where memory runs out the kernel takes a worker, not the server. Only a wish.
  static void PreferAsVictim() {
    const int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file < 0) return;
    static_cast<void>(!write(file, "500", 3));
    close(file);
  }

  absl::Status ReadHeader(const Job& job, Reply& reply) {
    SIGLIP_ASSIGN_OR_RETURN(
        const ImageHeader header,
        tasks_.read_header(PreprocessorOf(job.options), memory_.encoded(job.encoded_bytes)));
    reply.width = header.width;
    reply.height = header.height;
    reply.working_set_bytes = header.working_set_bytes;
    return absl::OkStatus();
  }

  absl::Status Preprocess(const Job& job, Reply& reply) {
    const Preprocessor& preprocessor = PreprocessorOf(job.options);
    return memory_.WithPixels(
        job.pixels_offset, preprocessor.pixel_values() * sizeof(float),
        [&](std::byte* pixels) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(
              const PixelSize size,
              tasks_.preprocess(preprocessor, memory_.encoded(job.encoded_bytes),
                                reinterpret_cast<float*>(pixels), reply.times));
          reply.width = size.width;
          reply.height = size.height;
          return absl::OkStatus();
        });
  }

  absl::Status Decode(const Job& job, Reply& reply) {
    const std::int64_t start_ns = SteadyNowNs();
    SIGLIP_ASSIGN_OR_RETURN(
        const RgbImage image,
        tasks_.decode(PreprocessorOf(job.options), memory_.encoded(job.encoded_bytes)));
    reply.times.decode_ns = SteadyNowNs() - start_ns;
    if (image.width != job.width || image.height != job.height) {
      return absl::InternalError(absl::StrCat("image: ", image.width, "x", image.height,
                                              " pixels, by its head ", job.width, "x", job.height));
    }
    return memory_.WithPixels(job.pixels_offset, image.pixels.size(), [&](std::byte* pixels) {
      std::memcpy(pixels, image.pixels.data(), image.pixels.size());
      return absl::OkStatus();
    });
  }

  // One for each model; a server has one or two.
  const Preprocessor& PreprocessorOf(const PreprocessOptions& options) {
    if (!preprocessor_ || preprocessor_->options() != options) preprocessor_.emplace(options);
    return *preprocessor_;
  }

  const DecodeWorkerTasks tasks_;
  WorkerMemory memory_;
  std::optional<Preprocessor> preprocessor_;
};

bool Send(const Reply& reply) {
  return write(kWorkerSocket, &reply, sizeof(reply)) == static_cast<ssize_t>(sizeof(reply));
}

// Nothing more to do, nothing to clean: the server is gone, or said so.
constexpr int kEnded = 0;
constexpr int kNotStarted = 1;

int Serve(const DecodeWorkerTasks& tasks) {
  DecodeWorker worker(tasks);
  const absl::Status ready = worker.SetUp();
  Reply first;
  SetStatus(ready, first);
  if (!Send(first) || !ready.ok()) return kNotStarted;
  Job job;
  while (read(kWorkerSocket, &job, sizeof(job)) == static_cast<ssize_t>(sizeof(job))) {
    if (!Send(worker.Run(job))) break;
  }
  return kEnded;
}

absl::StatusOr<ImageHeader> ReadPictureHeader(const Preprocessor& preprocessor,
                                              std::string_view bytes) {
  return preprocessor.ReadHeader(bytes);
}

absl::StatusOr<PixelSize> PreprocessPicture(const Preprocessor& preprocessor,
                                            std::string_view bytes, float* pixels,
                                            StageTimes& times) {
  return preprocessor.Preprocess(bytes, pixels, times);
}

absl::StatusOr<RgbImage> DecodePicture(const Preprocessor& preprocessor, std::string_view bytes) {
  return DecodeRgb(bytes, preprocessor.options().max_pixels);
}

}  // namespace

int RunDecodeWorker() {
  return RunDecodeWorker(
      {.read_header = ReadPictureHeader, .preprocess = PreprocessPicture, .decode = DecodePicture});
}

int RunDecodeWorker(const DecodeWorkerTasks& tasks) {
  // Destructors of static objects have nothing to write here, and some would ask for more than the
  // sandbox gives.
  _exit(Serve(tasks));
}

}  // namespace siglip
