#include "tools/cli/cli.h"

int main(int argc, char** argv) { return nibble::cli::main_(argc, argv); }
