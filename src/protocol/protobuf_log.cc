#include "protocol/protobuf_log.h"

#include <string>

#include <google/protobuf/stubs/logging.h>

#include "base/log.h"

namespace siglip {

void QuietProtobuf() {
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char* file, int line, const std::string& message) {
        SIGLIP_LOG_DEBUG("protobuf file={}:{} message=\"{}\"", file, line, message);
      });
}

}  // namespace siglip
