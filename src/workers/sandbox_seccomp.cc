// The filter, in classic BPF: a list of numbers with a look at some arguments. The kernel runs it
// at each system call; it has no loops and no state.

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/sandbox_limits.h"

namespace siglip {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArch = AUDIT_ARCH_AARCH64;
#else
#error "the sandbox's filter is written for x86-64 and aarch64"
#endif
// System calls of the x32 ABI have this bit, and the architecture of x86-64.
constexpr std::uint32_t kX32Bit = 0x40000000;

constexpr std::uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr std::uint32_t kKill = SECCOMP_RET_KILL_PROCESS;
constexpr std::uint32_t Refuse(int error) {
  return SECCOMP_RET_ERRNO | (static_cast<std::uint32_t>(error) & SECCOMP_RET_DATA);
}

constexpr std::uint32_t LowWordOf(int argument) {
  // Little-endian, as both architectures are here.
  return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * argument);
}

class Filter {
 public:
  Filter() {
    Load(offsetof(seccomp_data, arch));
    SkipIf(BPF_JEQ, kArch, 1);
    Return(kKill);
    Load(offsetof(seccomp_data, nr));
#if defined(__x86_64__)
    SkipUnless(BPF_JGE, kX32Bit, 1);
    Return(kKill);
#endif
  }

  void Always(int number, std::uint32_t answer) {
    SkipUnless(BPF_JEQ, static_cast<std::uint32_t>(number), 1);
    Return(answer);
  }

  // `number` is answered with `otherwise` unless its argument equals `value`.
  void IfEqual(int number, int argument, std::uint32_t value, std::uint32_t otherwise) {
    SkipUnless(BPF_JEQ, static_cast<std::uint32_t>(number), 4);
    Load(LowWordOf(argument));
    SkipUnless(BPF_JEQ, value, 1);
    Return(kAllow);
    Return(otherwise);
  }

  // The same of two values.
  void IfEither(int number, int argument, std::array<std::uint32_t, 2> values,
                std::uint32_t otherwise) {
    SkipUnless(BPF_JEQ, static_cast<std::uint32_t>(number), 5);
    Load(LowWordOf(argument));
    SkipIf(BPF_JEQ, values[0], 1);
    SkipUnless(BPF_JEQ, values[1], 1);
    Return(kAllow);
    Return(otherwise);
  }

  // `number` is allowed if its argument has none of these bits.
  void IfNone(int number, int argument, std::uint32_t bits) {
    SkipUnless(BPF_JEQ, static_cast<std::uint32_t>(number), 4);
    Load(LowWordOf(argument));
    SkipIf(BPF_JSET, bits, 1);
    Return(kAllow);
    Return(kKill);
  }

  // mmap: memory of nobody's, never to be executed.
  void AnonymousMemory() {
    SkipUnless(BPF_JEQ, SYS_mmap, 6);
    Load(LowWordOf(2));
    SkipIf(BPF_JSET, PROT_EXEC, 3);
    Load(LowWordOf(3));
    SkipUnless(BPF_JSET, MAP_ANONYMOUS, 1);
    Return(kAllow);
    Return(kKill);
  }

  absl::Status Install() {
    Return(kKill);
    const sock_fprog program{.len = static_cast<unsigned short>(code_.size()),
                             .filter = code_.data()};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("seccomp: ", std::strerror(errno)));
  }

 private:
  void Load(std::size_t offset) {
    code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)));
  }
  void Return(std::uint32_t answer) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, answer)); }
  void SkipIf(int test, std::uint32_t value, int count) {
    code_.push_back(BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), value,
                             static_cast<std::uint8_t>(count), 0));
  }
  void SkipUnless(int test, std::uint32_t value, int count) {
    code_.push_back(BPF_JUMP(static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), value, 0,
                             static_cast<std::uint8_t>(count)));
  }

  std::vector<sock_filter> code_;
};

absl::Status InstallFilter(int descriptor) {
  Filter filter;
  // In the order of their number: each test costs a nanosecond.
  const auto fd = static_cast<std::uint32_t>(descriptor);
  filter.IfEqual(SYS_read, 0, fd, kKill);
  // Libraries complain on stderr, which is closed.
  filter.IfEqual(SYS_write, 0, fd, Refuse(EBADF));
  // Advice of free() and of base/aligned_buffer.h. There is some that would damage or take away
  // pages that the server reads.
  filter.IfEither(SYS_madvise, 2, {MADV_DONTNEED, MADV_HUGEPAGE}, Refuse(EPERM));
  filter.Always(SYS_munmap, kAllow);
  filter.AnonymousMemory();
  filter.IfNone(SYS_mprotect, 2, PROT_EXEC);
  filter.Always(SYS_brk, kAllow);
  filter.Always(SYS_mremap, kAllow);
  filter.Always(SYS_futex, kAllow);
  // qsort of the C library asks how much memory there is, and takes any answer as given.
  filter.Always(SYS_sysinfo, kAllow);
  // Where the clock is no vDSO.
  filter.Always(SYS_clock_gettime, kAllow);
  filter.Always(SYS_exit_group, kAllow);
  filter.Always(SYS_exit, kAllow);
#if defined(__aarch64__)
  // libjpeg-turbo and libyuv look into /proc/cpuinfo when first used, and do without.
  filter.Always(SYS_openat, Refuse(EACCES));
#endif
  return filter.Install();
}

// Address space that is mapped now.
absl::StatusOr<std::uint64_t> MappedBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  unsigned long long pages = 0;
  const bool read = file != nullptr && std::fscanf(file, "%llu", &pages) == 1;
  if (file != nullptr) std::fclose(file);
  if (!read) return absl::InternalError("/proc/self/statm cannot be read");
  return static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

absl::Status EnterSandbox(const SandboxOptions& options) {
  SIGLIP_ASSIGN_OR_RETURN(const std::uint64_t mapped_bytes, MappedBytes());
  SIGLIP_RETURN_IF_ERROR(LimitProcess(options));
  SIGLIP_RETURN_IF_ERROR(
      SetLimit(RLIMIT_AS, "as", mapped_bytes + static_cast<std::uint64_t>(options.memory_bytes)));
  return InstallFilter(options.descriptor);
}

const char* SandboxName() { return "seccomp"; }

}  // namespace siglip
