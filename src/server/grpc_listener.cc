#include "server/grpc_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "server/door_addresses.h"

namespace siglip {
namespace {

constexpr int kRetryMs = 100;

bool SetOption(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

void SetPort(std::uint16_t port, sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
  }
}

std::uint16_t PortOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

bool IsWildcard(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  }
  return reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr == htonl(INADDR_ANY);
}

socklen_t SizeOf(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

sockaddr_storage AnyIpv6() {
  sockaddr_storage address{};
  address.ss_family = AF_INET6;  // the rest of the wildcard is zeros
  return address;
}

std::vector<sockaddr_storage> Resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  std::vector<sockaddr_storage> addresses;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return addresses;
  const absl::Cleanup free = [found] { ::freeaddrinfo(found); };
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (one->ai_family != AF_INET && one->ai_family != AF_INET6) continue;
    std::memcpy(&addresses.emplace_back(), one->ai_addr, one->ai_addrlen);
  }
  return addresses;
}

// The descriptor of a socket that listens; -1 with errno. Connections inherit its options.
int ListenOn(const sockaddr_storage& address, const ServerOptions& options) {
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const GrpcKeepalive& keepalive = options.grpc_keepalive;
  const bool is_ipv6 = address.ss_family == AF_INET6;
  const bool listens =
      SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
      // Without this, two servers on one port would both start and share its connections.
      (!options.reuse_grpc_port || SetOption(fd, SOL_SOCKET, SO_REUSEPORT, 1)) &&
      (!is_ipv6 || SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, IsWildcard(address) ? 0 : 1)) &&
      // Answers are complete: waiting to merge them costs 40 ms.
      SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1) &&
      // As gRPC's keepalive, which cannot tell while the kernel still has bytes to send.
      (keepalive.time_ms == INT_MAX ||
       SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, keepalive.timeout_ms)) &&
      ::bind(fd, reinterpret_cast<const sockaddr*>(&address), SizeOf(address)) == 0 &&
      ::listen(fd, SOMAXCONN) == 0;
  if (listens) return fd;
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Open(const ServerOptions& options) {
  const int wake_fd = ::eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) return absl::ResourceExhaustedError("the system gives no more descriptors");
  std::unique_ptr<GrpcListener> listener(new GrpcListener(wake_fd, options.http_max_connections));
  SIGLIP_RETURN_IF_ERROR(listener->Listen(options));
  return listener;
}

absl::Status GrpcListener::Listen(const ServerOptions& options) {
  std::vector<sockaddr_storage> addresses =
      Resolve(std::string(WithoutBrackets(options.grpc_address)));
  port_ = options.grpc_port;
  errno = EADDRNOTAVAIL;
  for (const sockaddr_storage& resolved : addresses) {
    sockaddr_storage address = IsWildcard(resolved) ? AnyIpv6() : resolved;
    SetPort(port_, address);
    int fd = ListenOn(address, options);
    if (fd < 0 && errno == EAFNOSUPPORT && IsWildcard(resolved)) {
      // No IPv6 on this machine.
      address = resolved;
      SetPort(port_, address);
      fd = ListenOn(address, options);
    }
    if (fd < 0) break;
    listeners_.push_back(fd);
    socklen_t bytes = sizeof(address);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) == 0) {
      port_ = PortOf(address);
    }
  }
  if (!listeners_.empty() && listeners_.size() == addresses.size()) return absl::OkStatus();
  return CannotListen("grpc", options.grpc_port, options.grpc_address,
                      std::generic_category().message(errno));
}

GrpcListener::~GrpcListener() {
  Stop();
  ::close(wake_fd_);
}

absl::Status GrpcListener::Start(std::unique_ptr<Target> target) {
  target_ = std::move(target);
  return AddThreads(thread_, 1, [this](int) { Run(); });
}

void GrpcListener::Stop() {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_fd_, &one, sizeof(one)));
  for (std::thread& thread : std::exchange(thread_, {})) thread.join();
  for (const int fd : std::exchange(listeners_, {})) ::close(fd);
}

void GrpcListener::Run() {
  std::vector<pollfd> fds = {{.fd = wake_fd_, .events = POLLIN, .revents = 0}};
  for (const int fd : listeners_) fds.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  bool all_accepted = true;
  while (true) {
    // One that cannot be accepted stays readable: only the end is waited for then.
    const nfds_t count = all_accepted ? fds.size() : 1;
    if (::poll(fds.data(), count, all_accepted ? -1 : kRetryMs) < 0 && errno != EINTR) return;
    if ((fds[0].revents & POLLIN) != 0) return;
    all_accepted = true;
    for (const int fd : listeners_) all_accepted = AcceptAll(fd) && all_accepted;
  }
}

bool GrpcListener::AcceptAll(int listener) {
  while (true) {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
      // The connection's own end, before it was accepted.
      if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO) continue;
      SIGLIP_LOG_WARN("accept failed door=grpc error=\"{}\"",
                      std::generic_category().message(errno));
      return false;
    }
    if (!guard_.Admits(fd, open_.CountUpTo(max_connections_))) {
      ::close(fd);
      continue;
    }
    Target::NewConnectionParameters connection;
    connection.listener_fd = listener;
    connection.fd = fd;  // gRPC's from here on
    try {
      open_.Add(fd);
    } catch (const std::bad_alloc&) {
      ::close(fd);
      SIGLIP_LOG_ERROR("connection dropped door=grpc error=out_of_memory");
      return false;
    }
    try {
      target_->HandleNewConnection(&connection);
    } catch (const std::bad_alloc&) {
      SIGLIP_LOG_ERROR("connection dropped door=grpc error=out_of_memory");
      return false;
    }
  }
}

}  // namespace siglip
