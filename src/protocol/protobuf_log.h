#pragma once

namespace siglip {

// What libprotobuf has to say of a message goes to our log, for debugging: by itself it writes a
// line to stderr for each bad one, as many as clients send. For the whole process; any thread, any
// number of times.
void QuietProtobuf();

}  // namespace siglip
