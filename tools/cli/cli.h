// The `nibble` program: its commands are one file each, this is what binds them together.
#pragma once

namespace nibble::cli {

// Exit codes: 0 done, 1 failure (one message on stderr), 2 wrong usage.
int run_command_line(int argc, char** argv);

}  // namespace nibble::cli
