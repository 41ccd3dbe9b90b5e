#include "protocol/wire_check.h"

#include <algorithm>
#include <cstdint>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// The largest that one field becomes: an input of a request (200 bytes), an entry of a map with its
// node, or a string of a field that is not known; with what the allocator adds.
constexpr std::size_t kFieldBytes = 256;

std::size_t NumberBytes(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return 1;
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return 8;
    default:
      return 4;
  }
}

class WireReader {
 public:
  WireReader(std::size_t max_number_bytes, google::protobuf::io::ZeroCopyInputStream& wire)
      : max_number_bytes_(max_number_bytes), in_(&wire) {}

  // The fields up to the end of the message, or of the limit that is set.
  absl::Status Read(const Descriptor& type) {
    while (const std::uint32_t tag = in_.ReadTag()) {
      if (++fields_ > kMaxWireFields) {
        return absl::InvalidArgumentError(
            Concat("the message has more than ", kMaxWireFields, " fields"));
      }
      SIGLIP_RETURN_IF_ERROR(ReadField(type, tag));
    }
    return in_.ConsumedEntireMessage() ? absl::OkStatus() : Broken();
  }

  std::size_t tree_bytes() const { return fields_ * kFieldBytes + number_bytes_ + string_bytes_; }

 private:
  static absl::Status Broken() {
    return absl::InternalError("the bytes of the message are broken protobuf");
  }

  absl::Status ReadField(const Descriptor& type, std::uint32_t tag) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return ReadBlock(field);
      case WireFormatLite::WIRETYPE_VARINT: {
        std::uint64_t ignored;
        return in_.ReadVarint64(&ignored) ? absl::OkStatus() : Broken();
      }
      case WireFormatLite::WIRETYPE_FIXED32:
        return in_.Skip(4) ? absl::OkStatus() : Broken();
      case WireFormatLite::WIRETYPE_FIXED64:
        return in_.Skip(8) ? absl::OkStatus() : Broken();
      default:  // groups, which proto3 does not write
        return Broken();
    }
  }

  absl::Status ReadBlock(const FieldDescriptor* field) {
    std::uint32_t length;
    if (!in_.ReadVarint32(&length) || length > INT32_MAX) return Broken();
    const int size = static_cast<int>(length);
    if (field != nullptr && field->message_type() != nullptr) {
      const auto outer = in_.PushLimit(size);
      SIGLIP_RETURN_IF_ERROR(Read(*field->message_type()));
      if (in_.BytesUntilLimit() != 0) return Broken();
      in_.PopLimit(outer);
      return absl::OkStatus();
    }
    if (field != nullptr && field->is_packable()) return ReadNumbers(*field, size);
    string_bytes_ += length;
    return in_.Skip(size) ? absl::OkStatus() : Broken();
  }

  absl::Status ReadNumbers(const FieldDescriptor& field, int size) {
    const WireFormatLite::WireType type =
        WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
    if (type == WireFormatLite::WIRETYPE_VARINT) {
      std::size_t count = 0;
      if (!CountVarints(size, count)) return Broken();
      number_bytes_ += count * NumberBytes(field);
    } else {
      if (!in_.Skip(size)) return Broken();
      number_bytes_ += static_cast<std::size_t>(size);
    }
    if (number_bytes_ <= max_number_bytes_) return absl::OkStatus();
    return absl::InvalidArgumentError(Concat("the numbers of '", field.name(), "' take more than ",
                                             max_number_bytes_, " bytes of memory"));
  }

  // Each ends with the one byte of its own that is less than 128.
  bool CountVarints(int size, std::size_t& count) {
    while (size > 0) {
      const void* bytes;
      int there;
      if (!in_.GetDirectBufferPointer(&bytes, &there)) return false;
      there = std::min(there, size);
      const auto* begin = static_cast<const std::uint8_t*>(bytes);
      count += static_cast<std::size_t>(
          std::count_if(begin, begin + there, [](std::uint8_t byte) { return byte < 0x80; }));
      in_.Skip(there);
      size -= there;
    }
    return true;
  }

  const std::size_t max_number_bytes_;
  CodedInputStream in_;
  std::size_t fields_ = 0;
  std::size_t number_bytes_ = 0;
  std::size_t string_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::size_t> CheckWire(const Descriptor& type, std::size_t max_number_bytes,
                                      google::protobuf::io::ZeroCopyInputStream& wire) {
  WireReader reader(max_number_bytes, wire);
  SIGLIP_RETURN_IF_ERROR(reader.Read(type));
  return reader.tree_bytes();
}

}  // namespace siglip
