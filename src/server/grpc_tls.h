#pragma once

// The gRPC door's certificates. grpc++ takes new ones from files that it watches, whether or not
// they fit together, and then fails every handshake; so it watches copies, which change only once
// key, certificate and root do. Private to this folder.

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "server/options.h"

namespace siglip {

// Thread-safe. Outlives the server that watches the copies.
class CheckedTlsFiles {
 public:
  // InvalidArgument as MakeTlsContext.
  static absl::StatusOr<std::unique_ptr<CheckedTlsFiles>> Open(const TlsFiles& files);
  ~CheckedTlsFiles();
  CheckedTlsFiles(const CheckedTlsFiles&) = delete;
  CheckedTlsFiles& operator=(const CheckedTlsFiles&) = delete;

  // Of one file with the key and after it the certificate, so that they change together.
  const std::string& identity_path() const { return copies_.server_cert; }
  // Empty without a root.
  const std::string& root_path() const { return copies_.root_cert; }

 private:
  explicit CheckedTlsFiles(const TlsFiles& files) : files_(files) {}

  std::vector<absl::StatusOr<FileIdentity>> Identify() const;
  // Takes the files as they are now, if they fit together.
  absl::Status Update();
  // A round of the thread's life; false at the end.
  bool LookAgain();

  const TlsFiles files_;
  TlsFiles copies_;  // set by Open
  int identity_fd_ = -1;
  int root_fd_ = -1;
  std::vector<absl::StatusOr<FileIdentity>> taken_;
  absl::Status last_;  // of Update
  Mutex mu_;
  CondVar ends_;
  bool ending_ SIGLIP_GUARDED_BY(mu_) = false;
  std::vector<std::thread> follower_;  // one
};

}  // namespace siglip
