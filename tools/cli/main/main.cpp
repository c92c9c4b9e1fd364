#include "tools/cli/cli.h"

int main(int argc, char** argv) { return nibble::cli::run_command_line(argc, argv); }
