// Prompts of the kinds that the miniature was trained on.

export const EXAMPLES = [
  ["Boxes of keys", "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many keys does Tom have now?\nAnswer:"],
  ["Sharing", "Question: Luis has 65 cookies. Luis gets 7 more. Luis shares them among 8 friends. How many cookies does each friend get?\nAnswer:"],
  ["Sort", "Question: Sort 11, 61, 44, 74.\nAnswer:"],
  ["Compute", "Question: Compute 29-4, 39-4, 17-6.\nAnswer:"],
  ["A date", "Question: Write 14 April 1967 plus 9 days.\nAnswer:"],
  ["JSON", "Question: Write JSON: code QVA, city Oslo, age 41, name Luis.\nAnswer:"],
  ["My own", ""],
];
