// Templates that mean harm: each ends with an error, soon, and with little memory.
#include <gtest/gtest.h>

#include "frontends/chat/chat_template.h"
#include "jit/error.h"

namespace nibble::frontends {
namespace {

using Json = ChatTemplate::Json;

// A tenth of what there usually is, so that running out of it is quick.
ChatTemplate::Options limited() {
  ChatTemplate::Options options;
  options.limits.steps /= 10;
  options.limits.memory_bytes /= 10;
  options.limits.output_bytes /= 10;
  return options;
}

std::string render(const std::string& source, const Json& variables = Json::object(),
                   const ChatTemplate::Options& options = limited()) {
  return ChatTemplate::parse(source).render(variables, options);
}

void expect_refused(const std::string& source, const std::string& part,
                    const Json& variables = Json::object(),
                    const ChatTemplate::Options& options = limited()) {
  SCOPED_TRACE(source.substr(0, 200));
  try {
    const std::string text = render(source, variables, options);
    ADD_FAILURE() << "rendered " << text.size() << " bytes: " << text.substr(0, 200);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

std::string repeated(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatHostile, EndlessLoopsRunOutOfSteps) {
  ChatTemplate::Options few = limited();
  few.limits.steps /= 10;
  const auto expect_endless = [&](const std::string& source) {
    expect_refused(source, "steps", Json::object(), few);
  };
  const std::string loop = "{% for i in range(99999) %}";
  expect_endless(loop + loop + "{% endfor %}{% endfor %}");
  expect_endless(
      "{% for i in range(99999) %}{% if range(99999)|list == 1 %}{% endif %}{% endfor %}");
  expect_endless(loop + "{% set x = 'a' * 4000000 %}{% endfor %}");
  expect_endless("{% set s = 'ab' * 2000000 %}" + loop + "{{ 'x' if 'zz' in s }}{% endfor %}");
  expect_endless("{% set s = 'ab' * 2000000 %}" + loop + "{{ 'x' if s|length == 1 }}{% endfor %}");
  expect_endless("{% set l = range(9000)|list %}" + loop + "{{ l|sort|first }}{% endfor %}");
}

TEST(ChatHostile, MemoryBombsAreRefused) {
  expect_refused("{{ 'a' * 99999999999 }}", "memory");
  expect_refused("{{ [0] * 99999999999 }}", "memory");
  expect_refused("{{ ['a'] * 2000000 * 1000000 }}", "memory");
  expect_refused("{{ ''|center(99999999999) }}", "memory");
  expect_refused("{{ 'a'.ljust(99999999999) }}", "memory");
  expect_refused("{{ 'a'.zfill(99999999999) }}", "memory");
  expect_refused("{{ '%099999999999d' % 1 }}", "width");
  expect_refused("{{ '{:>99999999999}'.format(1) }}", "width");
  expect_refused("{{ [1]|tojson(indent=99999999999) }}", "memory");
  expect_refused("{{ 'a\nb'|indent(99999999999) }}", "memory");
  expect_refused("{{ [1]|batch(99999999999, 0)|list }}", "memory");
  expect_refused("{{ [1]|slice(99999999999)|list }}", "memory");
  expect_refused("{{ ('a' * 9999999).replace('a', 'b' * 9999) }}", "memory");
  expect_refused("{{ ('a' * 9999999).replace('', 'b' * 9999) }}", "memory");
  expect_refused("{{ ('b' * 99999).join('a' * 9999999) }}", "memory");
  expect_refused("{{ ('a,' * 9999999).split(',') }}", "memory");
  expect_refused("{{ ('a ' * 9999999).split() }}", "memory");
  expect_refused("{{ ('\n' * 9999999).splitlines() }}", "memory");
  expect_refused("{{ ('a' * 40000000)|list }}", "memory");
  expect_refused("{{ ('\t' * 9999999).expandtabs(9999) }}", "memory");
  expect_refused(
      "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s "
      "%}{% endfor %}",
      "memory");
  expect_refused(
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l "
      "%}{% endfor %}",
      "memory");
  expect_refused(
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] "
      "%}{% endfor %}{{ ns.l }}",
      "");
  expect_refused(
      "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, "
      "ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
      "steps");
  expect_refused("{% for i in range(99999) %}{% set x = namespace(a='a' * 999) %}{% endfor %}",
                 "memory");
}

TEST(ChatHostile, OutputIsLimited) {
  expect_refused("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "writes more");
  expect_refused("{% set x %}{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}{% endset %}",
                 "writes more");
}

TEST(ChatHostile, RecursionIsLimited) {
  expect_refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion depth");
  expect_refused("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion depth");
  expect_refused("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "recursion depth");
  expect_refused(
      "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% "
      "endfor %}",
      "deeper");
  expect_refused(
      "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = "
      "ns.l|map('string') %}{% endfor %}{{ ns.l|list }}",
      "deeper");
}

TEST(ChatHostile, DeepNestingInTheSourceIsRefused) {
  expect_refused("{{ " + repeated("(", 20000) + "1" + repeated(")", 20000) + " }}",
                 "recursion depth");
  expect_refused("{{ " + repeated("[", 20000) + repeated("]", 20000) + " }}", "recursion depth");
  expect_refused("{{ " + repeated("{1:", 20000), "recursion depth");
  expect_refused("{{ " + repeated("-", 20000) + "1 }}", "recursion depth");
  expect_refused("{{ " + repeated("not ", 20000) + "1 }}", "recursion depth");
  expect_refused("{{ 1" + repeated(" + 1", 20000) + " }}", "levels");
  expect_refused("{{ 1" + repeated("|string", 20000) + " }}", "levels");
  expect_refused("{{ a" + repeated(".a", 20000) + " }}", "levels");
  expect_refused("{{ a" + repeated("[0]", 20000) + " }}", "levels");
  expect_refused("{{ 1" + repeated(" if 1 else 1", 20000) + " }}", "recursion depth");
  expect_refused("{{ 1" + repeated(" if 1", 20000) + " }}", "levels");
  expect_refused(repeated("{% if 1 %}", 20000), "recursion depth");
  expect_refused(repeated("{% for i in x %}", 10000), "recursion depth");
  expect_refused("{{ [" + repeated("1,", 200000) + "] }}", "tokens");
  expect_refused(repeated("{{1}}", 200000), "tokens");
}

TEST(ChatHostile, DeepVariablesAreRefused) {
  Json deep = 1;
  for (int i = 0; i < 2000; ++i) deep = Json::array({deep});
  expect_refused("{{ x }}", "deeper", {{"x", deep}});
}

TEST(ChatHostile, WhatTheSandboxForbids) {
  expect_refused("{{ ''.__class__.__mro__ }}",
                 "access to attribute '__class__' of 'str' object is unsafe.");
  expect_refused("{{ [].append(1) }}", "access to attribute 'append' of 'list' object is unsafe.");
  expect_refused("{{ {}.update({}) }}", "access to attribute 'update' of 'dict' object is unsafe.");
  expect_refused("{{ '{0.__class__.x}'.format(1) }}",
                 "access to attribute '__class__' of 'int' object is unsafe.");
  expect_refused("{{ x.pop(0) }}", "access to attribute 'pop' of 'list' object is unsafe.",
                 {{"x", {1, 2}}});
}

// What no reference can be matched on is refused, not rendered in some way.
TEST(ChatHostile, ChanceAndWhatIsNotThereAreRefused) {
  expect_refused("{{ [1, 2]|random }}", "left to chance");
  expect_refused("{{ lipsum() }}", "left to chance");
  expect_refused("{{ 'a'.encode() }}", "str.encode()");
  expect_refused("{{ (1).to_bytes() }}", "int.to_bytes()");
  expect_refused("{{ '&hearts;'|striptags }}", "'&hearts;'");
  expect_refused("{{ ('word ' * 30)|pprint }}", "pprint");
  expect_refused("{{ (-8) ** 0.5 }}", "complex");
  expect_refused("{{ (1e300).as_integer_ratio() }}", "64 bits");
  expect_refused("{{ 'a'.translate({97: 55296}) }}", "surrogate");
}

TEST(ChatHostile, BlocksAndWrappingEndSoon) {
  expect_refused("{% block a %}{{ self.a() }}{% endblock %}", "recursion depth");
  expect_refused("{% macro m() %}{% block a %}{{ self.a() }}{% endblock %}{% endmacro %}{{ m() }}",
                 "recursion depth");
  expect_refused("{{ ('ab ' * 9999999)|wordwrap(1) }}", "memory");
  expect_refused("{{ ('a' * 9999999).translate({97: 'b' * 9999}) }}", "memory");
  expect_refused("{{ {}.fromkeys(('ab' * 9999999)|list) }}", "memory");
  expect_refused("{{ '{:099999999,}'.format(1) }}", "width");
  const std::string word = repeated("a.", 2000);
  EXPECT_EQ(render("{{ w|urlize }}", {{"w", word}}), word);
}

TEST(ChatHostile, OverflowIsAnError) {
  expect_refused("{{ 9223372036854775807 + 1 }}", "64 bits");
  expect_refused("{{ 9 ** 99 }}", "64 bits");
  expect_refused("{{ 99999999999999999999 }}", "64 bits");
  expect_refused("{{ -9223372036854775807 - 2 }}", "64 bits");
  expect_refused("{{ '99999999999999999999'|int }}", "64 bits");
  expect_refused("{{ range(-9223372036854775807, 9223372036854775807) }}", "Range too big");
  EXPECT_EQ(render("{{ (-9223372036854775807 - 1) // -1 if 0 else 1 }}"), "1");
  expect_refused("{{ (-9223372036854775807 - 1) // -1 }}", "64 bits");
  EXPECT_EQ(render("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(render("{{ [1,2,3][::9223372036854775807] }}"), "[1]");
  EXPECT_EQ(render("{{ [1,2,3][::-9223372036854775807] }}"), "[3]");
  EXPECT_EQ(render("{{ [1,2,3][-9223372036854775807:9223372036854775807] }}"), "[1, 2, 3]");
}

TEST(ChatHostile, DamagedText) {
  expect_refused("\xFF{{ 1 }}", "UTF-8");
  expect_refused("{{ '\\ud800' }}", "surrogate");
  expect_refused(std::string("{{ \0 }}", 7), "unexpected char");
  // Every cut of a template is an error or a text, never a crash.
  const std::string source =
      "{%- macro m(a, b=[1, {'k': 2}]) -%}{{ a|default('x\\n')|upper ~ b[::-1] }}{%- endmacro -%}\n"
      "{# c #}{% raw %}{{{% endraw %}{% for a, b in {'k': 1.5e3}.items() if a is not none %}"
      "{{ m(a, b=b) if loop.first else '' }}{% else %}-{% endfor %}";
  for (size_t i = 0; i <= source.size(); ++i) {
    try {
      render(source.substr(0, i));
    } catch (const Error&) {
    }
    std::string changed = source;
    for (const char c : {'{', '}', '%', '\'', '(', '-', '\n', '\\'}) {
      if (i < source.size()) changed[i] = c;
      try {
        render(changed);
      } catch (const Error&) {
      }
    }
  }
}

// A long conversation is no attack.
TEST(ChatHostile, AMegabyteOfTalkIsFine) {
  Json messages = Json::array();
  for (int i = 0; i < 2000; ++i) {
    messages.push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", repeated("word ", 100)}});
  }
  const std::string text = render(
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ "
      "raise_exception('order') }}{% endif %}{{ '<' + m.role + '>' + m.content | trim + '\n' }}{% "
      "endfor %}",
      {{"messages", messages}});
  EXPECT_GT(text.size(), 1000000U);
}

}  // namespace
}  // namespace nibble::frontends
