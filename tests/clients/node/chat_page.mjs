// A page with one chat on it, as an application has it: React renders the hook, a user sends, reloads, leaves. Runs in a
// browser, and in Node on happy-dom.

/** The libraries of one major of the AI SDK. */
export const majors = {
  5: { sdk: 'ai5', react: 'ai-react5' },
  6: { sdk: 'ai6', react: 'ai-react6' },
  7: { sdk: 'ai', react: '@ai-sdk/react' },
};

/**
 * Renders `useHook`, whose value has `messages`, inside `Shell` if there is one. The page's `state` is that value; `until`
 * waits until a condition on it holds; `close` leaves the page.
 */
export function openPage({ React, createRoot }, useHook, Shell = React.Fragment) {
  const waiting = new Set();
  const page = {
    state: undefined,
    until: (condition) =>
      new Promise((resolve) => {
        const look = () => condition(page.state) && (waiting.delete(look), resolve(page.state));
        waiting.add(look);
        if (page.state) look();
      }),
    close: () => root.unmount(),
  };
  function Page() {
    page.state = useHook();
    React.useEffect(() => waiting.forEach((look) => look()));
    return null;
  }
  const root = createRoot(document.createElement('div'));
  root.render(React.createElement(Shell, null, React.createElement(Page)));
  return page;
}

/** Whether the chat has said something. */
export const answers = ({ messages }) => messages.at(-1)?.role === 'assistant' && messages.at(-1).parts.length > 0;

/** Whether the chat is quiet. */
export const rests = ({ status }) => status === 'ready' || status === 'error';

/** The user's message, as it would come from the application's database. */
export const question = { id: 'question', role: 'user', parts: [{ type: 'text', text: 'Weather in Ulm?' }] };
