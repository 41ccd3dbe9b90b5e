// What the HTTP door does when memory runs out as a connection comes. In a program of its own,
// whose operator new fails when told.

#include <atomic>
#include <cstddef>
#include <cstdlib>

#include <gtest/gtest.h>

#include "base/failing_new_for_test.h"
#include "server/fake_service.h"
#include "server/http.h"
#include "server/http_connection.h"
#include "server/kserve_routes.h"
#include "server/raw_client_for_test.h"

namespace {

// So many allocations of a connection's size fail. Orders nothing else.
std::atomic<int> failures{0};

bool IsConnection(std::size_t bytes) {
  constexpr std::size_t kControlBlockBytes = 64;  // and more, of make_shared's
  return bytes >= sizeof(siglip::HttpConnection) &&
         bytes <= sizeof(siglip::HttpConnection) + kControlBlockBytes;
}

}  // namespace

void* TestAllocate(std::size_t bytes) {
  if (IsConnection(bytes) && failures > 0) {
    --failures;
    return nullptr;
  }
  return std::malloc(bytes == 0 ? 1 : bytes);
}

namespace siglip {
namespace {

TEST(HttpMemoryTest, AConnectionWithoutMemoryIsDroppedAndTheNextIsAccepted) {
  FakeService service;
  DoorState state;
  KServeHandler handler(service, state, 1 << 20);
  const auto server = HttpServer::Start("http", "127.0.0.1", 0, 2, HttpSettings(), handler);
  ASSERT_TRUE(server.ok());
  failures = 2;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(RawClient((*server)->port()).EndedByPeer());
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(RawClient((*server)->port()).Ask(Get("/v2/health/live")).status, 200);
}

}  // namespace
}  // namespace siglip
