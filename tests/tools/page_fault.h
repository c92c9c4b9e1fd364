// What is wrong with a page of the reports: for the tests of every page.
#pragma once

#include <cstddef>
#include <string>

namespace nibble::test {

// The first thing that is wrong with the page as XML, or "".
std::string fault_of(const std::string& page);

// What a page names that it would have to fetch or run, or a number that is none; or "".
std::string unwanted_in(const std::string& page);

size_t count(const std::string& text, const std::string& what);

}  // namespace nibble::test
