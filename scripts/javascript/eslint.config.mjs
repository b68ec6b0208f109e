import globals from "globals";

export default [
  {
    languageOptions: { sourceType: "script", globals: globals.browser },
    rules: { "no-undef": "error", "no-unused-vars": "error" },
  },
];
