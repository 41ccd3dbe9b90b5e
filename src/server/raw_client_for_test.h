#pragma once

// A TCP client that sends exactly what it is told, for tests of framing.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

namespace siglip {

struct RawResponse {
  int status = 0;  // 0 = the connection ended before a whole answer
  std::string head;
  std::string body;

  std::string Header(std::string_view name) const {
    const std::size_t at = head.find("\r\n" + std::string(name) + ": ");
    if (at == std::string::npos) return "";
    const std::size_t begin = at + 4 + name.size();
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

class RawClient {
 public:
  explicit RawClient(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }

  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  // False once the peer has closed.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  // Reads one answer; `head_only` for answers to HEAD.
  RawResponse Receive(bool head_only = false) {
    RawResponse response;
    std::size_t end;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!Fill()) return response;
    }
    response.head = buffer_.substr(0, end + 2);
    buffer_.erase(0, end + 4);
    const std::string length = response.Header("Content-Length");
    const std::size_t size = length.empty() || head_only ? 0 : std::stoul(length);
    while (buffer_.size() < size) {
      if (!Fill()) return response;
    }
    response.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
    response.status = std::atoi(response.head.c_str() + sizeof("HTTP/1.1"));
    return response;
  }

  RawResponse Ask(std::string_view request) {
    Send(request);
    return Receive();
  }

  // True once `bytes` came, wherever; those before them are forgotten.
  bool Await(std::string_view bytes) {
    std::size_t at;
    while ((at = buffer_.find(bytes)) == std::string::npos) {
      if (!Fill()) return false;
    }
    buffer_.erase(0, at + bytes.size());
    return true;
  }

  // True if the peer closes within ten seconds without a further byte.
  bool ClosedByPeer() { return buffer_.empty() && !Fill(); }

  // True if the peer closes within ten seconds of its last byte, whatever it says before.
  bool EndedByPeer() {
    while (Fill()) {
    }
    return !timed_out_;
  }

 private:
  bool Fill() {
    pollfd ready{fd_, POLLIN, 0};
    if (::poll(&ready, 1, 10000) <= 0) {
      buffer_ += "timeout";
      timed_out_ = true;
      return false;
    }
    char bytes[65536];
    const ssize_t n = ::recv(fd_, bytes, sizeof(bytes), 0);
    if (n <= 0) return false;
    buffer_.append(bytes, static_cast<std::size_t>(n));
    return true;
  }

  int fd_;
  bool connected_ = false;
  bool timed_out_ = false;
  std::string buffer_;
};

inline std::string Get(std::string_view path) {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n\r\n";
}

inline std::string Post(std::string_view path, std::string_view body,
                        std::string_view headers = "") {
  return "POST " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n" + std::string(headers) +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

}  // namespace siglip
