#pragma once

// What a process says before SIGBUS ends it. A mapped file that is cut short while it is in use, or
// whose disk fails, raises SIGBUS at the next read of what is gone; nothing can be computed from it
// any more.

namespace siglip {

// From now on, of all threads: one line on stderr that names the file, then the signal's default
// action (exit by SIGBUS). Called once, by main.
void ReportBusErrors();

}  // namespace siglip
